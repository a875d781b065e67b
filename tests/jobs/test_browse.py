"""What cannot be opened is said in one line, before anything is loaded; what a page shows follows from the options."""

from __future__ import annotations

import sys

import pytest
from datasets import Dataset

from mmembed.cli import main
from mmembed.jobs import browse_parts
from mmembed.jobs.browse_options import BrowseOptions
from mmembed.jobs.browse_parts import PageParts, catalogue_model
from mmembed.jobs.dialogue_parts import captions_of
from mmembed.jobs.options import OptionsError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--index", "a", "--pipeline", "b"], "--pipeline and --index both say what is searched; give one"),
        (["--pipeline", "a", "--lexical", "items"], "--pipeline has its own parts"),
        (["--vectors", "a", "--use", "text"], "--use says what of items is encoded, and --vectors is encoded already"),
        (["--index", "a", "--reranker", "b"], "--reranker reads the items; name them by --items"),
        (["--dialogue", "--index", "a"], "--dialogue asks about attributes of items; name them by --items"),
        (["--compressed", "[int4]"], "--compressed: found 'int4'; choose int8, binary, or [] for nothing"),
        (["--k", "0"], "--k: found 0, wanted at least 1"),
        (["--rounds", "0"], "--rounds: found 0, wanted at least 1"),
        (["--host", "0.0.0.0"], "anybody who reaches this machine sees the page and the items"),
        (["--port", "70000"], "a port is a number from 0 to 65535"),
        (["--itemz", "a"], "items"),
    ],
)
def test_what_cannot_be_meant_is_said(words, said, capsys) -> None:
    assert main(["browse", *words]) == 2
    assert said in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"pip install 'mmembed\[browse\]'"):
        main(["browse", "--port", "0"])


def test_the_drawn_catalogue_is_searched_with_the_model_that_there_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(browse_parts, "TRAINED", tmp_path / "runs/train/model")
    parts = PageParts(None, None, None, (), [], is_catalogue=True)
    options = BrowseOptions(work_dir=str(tmp_path / "browse"))
    (tmp_path / "browse" / "model").mkdir(parents=True)
    assert catalogue_model(options, parts) == str(tmp_path / "browse/model")  # made for the page before
    (tmp_path / "runs/train/model").mkdir(parents=True)
    assert catalogue_model(options, parts) == str(tmp_path / "runs/train/model")  # a better one
    with pytest.raises(OptionsError, match="--model: name the model"):
        catalogue_model(options, PageParts(None, None, None, (), []))


def test_a_dialogue_begins_with_little() -> None:
    items = Dataset.from_dict(
        {
            "id": ["a", "b", "c", "d"],
            "text": ["Ulmeta, red (large) mug: steel", None, "红色杯子", ""],
            "subcategory": ["mug", "mug", "mug", None],
        }
    )
    assert [captions_of(items, False)(id) for id in ("a", "b", "c", "d", "e")] == [
        "Ulmeta red large",
        "",
        "红色杯子",
        "",
        "",
    ]
    assert [captions_of(items, True)(id) for id in ("a", "b", "d")] == ["mug", "mug", ""]
