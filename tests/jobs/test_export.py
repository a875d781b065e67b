"""`mmembed export` from words to a folder: what it writes, what it prints, and with which status it ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mmembed.cli import main as mmembed
from mmembed.embeddings import Embeddings
from mmembed.export.onnx_embedder import OnnxEmbedder
from mmembed.export.onnx_files import read_export
from mmembed.jobs.export import main
from mmembed.jobs.options import OptionsError
from mmembed.models.loading import load_model
from tests.export.tiny_exports import TEXTS, copying, reverse_batch, tiny_text_embedder
from tests.jobs.tiny_jobs import write_shop
from tests.tiny_models import tiny_dual_encoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_text_embedder(folder.with_name("plain")).save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph, traced once."""
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mmembed"])
        assert mmembed(["export", "--model", str(model), "--output_dir", str(folder), "--no_show_progress_bar"]) == 0
    return folder


@pytest.fixture
def traced(exported, monkeypatch):
    return copying(monkeypatch, exported / "text_fp32" / "model.onnx")


def words(model: Path, output: Path, *more: str) -> list[str]:
    return ["--model", str(model), "--output_dir", str(output), "--no_show_progress_bar", *more]


def write_texts(folder: Path) -> tuple[Path, Path]:
    """Items and pairs: a text's positive is the one after it."""
    folder.mkdir(parents=True, exist_ok=True)
    items, pairs = folder / "items.jsonl", folder / "pairs.jsonl"
    items.write_text("".join(json.dumps({"id": f"t{row}", "text": text}) + "\n" for row, text in enumerate(TEXTS)))
    pairs.write_text(
        "".join(
            json.dumps({"query_id": f"t{row}", "positive_ids": [f"t{row + 1}"], "negative_ids": []}) + "\n"
            for row in range(19)
        )
    )
    return items, pairs


def test_without_data_the_rows_are_drawn_and_said_to_be(exported, model):
    about, graphs = read_export(exported)
    assert [graph.name for graph in graphs] == ["text_fp32"] and about["model"] == "tiny"
    assert "synthetic" in graphs[0].parity["source"] and "synthetic" in (exported / "parity.txt").read_text()
    vectors = OnnxEmbedder(exported, threads=1).encode(TEXTS)
    np.testing.assert_allclose(vectors, load_model(model).encode(TEXTS), atol=1e-5)


def test_a_table_is_printed_with_what_was_judged(model, tmp_path, traced, capsys):
    traced()
    items, pairs = write_texts(tmp_path / "data")
    given = ["--items", str(items), "--pairs", str(pairs), "--precision", "fp32", "int8", "--document_use", "text"]
    assert main(words(model, tmp_path / "onnx", *given)) == 0
    told = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in told if line.startswith("text_")}
    assert rows["text_fp32"][1] == "yes" and rows["text_int8"][1] == "yes"
    assert rows["text_fp32"][-3] == rows["text_fp32"][-2] and rows["text_fp32"][-1] == "19"
    assert 0 < float(rows["text_fp32"][-2]) < 1
    assert any(line.startswith("rows ") and "items.jsonl, part all" in line for line in told)
    assert told[-1].split() == ["folder", str(tmp_path / "onnx")]


def test_a_refused_graph_ends_with_status_2_and_the_table(model, tmp_path, traced, capsys):
    traced(reverse_batch)
    assert mmembed(["export", *words(model, tmp_path / "onnx")]) == 2
    found = capsys.readouterr()
    assert "NO" in found.out and "a component differs" in found.out
    last = found.err.splitlines()[-1]
    assert last.startswith("mmembed export: error: refused by the parity gate: text_fp32: a component differs")
    assert "Traceback" not in found.err and read_export(tmp_path / "onnx")[1] == []


def test_an_export_is_quantised_where_it_is(exported, tmp_path, capsys):
    folder = Path(shutil.copytree(exported, tmp_path / "onnx"))
    assert main(["--model", str(folder), "--precision", "int8", "--no_show_progress_bar"]) == 0
    assert {graph.name for graph in read_export(folder)[1]} == {"text_fp32", "text_int8"}
    assert "text_int8" in capsys.readouterr().out
    with pytest.raises(OptionsError, match="quantised where they are"):
        main(["--model", str(folder), "--precision", "int8", "--output_dir", str(tmp_path / "other")])


def test_an_export_encodes_as_its_model(exported, model, tmp_path, capsys):
    rows = "".join(json.dumps({"id": str(row), "text": text}) + "\n" for row, text in enumerate(TEXTS))
    (tmp_path / "items.jsonl").write_text(rows)
    for name in (exported, model):
        given = ["--items", str(tmp_path / "items.jsonl"), "--output_dir", str(tmp_path / name.name), "--use", "text"]
        assert mmembed(["encode", "--model", str(name), *given, "--no_show_progress_bar"]) == 0
    found, expected = (Embeddings.load(tmp_path / name.name) for name in (exported, model))
    assert list(found.ids) == list(expected.ids)
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-5)
    given = ["--items", str(tmp_path / "items.jsonl"), "--output_dir", str(tmp_path / "other"), "--use", "text"]
    assert mmembed(["encode", "--model", str(exported), *given, "--precision", "bfloat16"]) == 2
    assert "leave precision and revision out" in capsys.readouterr().err


@pytest.mark.slow
def test_photos_and_titles_are_judged_both_ways(tmp_path, capsys):
    items = write_shop(tmp_path / "shop", 24)
    tiny_dual_encoder().save_pretrained(str(tmp_path / "model"), create_model_card=False)
    assert main(words(tmp_path / "model", tmp_path / "onnx", "--items", str(items), "--part", "all")) == 0
    rows = [
        line.split()
        for line in capsys.readouterr().out.splitlines()
        if line.split("_")[0] in ("text", "image", "fused")
    ]
    assert [row[0] for row in rows] == ["text_fp32", "image_fp32", "fused_fp32"]
    assert [row[-1] for row in rows[:2]] == ["24", "24"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "--model"),
        (["--model", "x"], "--output_dir"),
        (["--model", "x", "--output_dir", "y", "--data", "z", "--items", "w"], "--data holds"),
        (["--model", "x", "--output_dir", "y", "--format", "cranfield"], "--format"),
        (["--model", "x", "--output_dir", "y", "--max_rows", "2"], "--max_rows"),
        (["--model", "x", "--output_dir", "y", "--query_use", "any"], "--query_use any"),
        (["--model", "x", "--output_dir", "y", "--precision", "int4"], "precision"),
        (["--model", "x", "--output_dir", "y", "--verb", "text"], "did you mean --verbs"),
    ],
)
def test_options_that_cannot_be_meant(given, message):
    with pytest.raises(OptionsError, match=message):
        main(given)


def test_a_verb_that_the_model_lacks(model, tmp_path, capsys):
    assert mmembed(["export", *words(model, tmp_path / "onnx", "--verbs", "image")]) == 2
    assert "choose of text" in capsys.readouterr().err and not (tmp_path / "onnx").exists()
    assert mmembed(["export", *words(tmp_path / "nowhere", tmp_path / "onnx")]) == 2


def test_help_loads_nothing_heavy():
    code = "import sys; from mmembed.jobs.export import main\ntry: main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    start = time.process_time()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--precision" in done.stdout and time.process_time() - start < 5
