"""Prompts are put before queries and documents, saved, and read by plain sentence-transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from mmembed.models.loading import load_model
from mmembed.models.text_instructions import INSTRUCTIONS, instruction_prompt, set_prompts
from tests.models.test_text_models import text_folder


@pytest.mark.parametrize("family", INSTRUCTIONS)
def test_instructions_reach_the_text_and_the_folder(family: str, tmp_path) -> None:
    asked = INSTRUCTIONS[family]
    model = set_prompts(load_model(text_folder("bert", tmp_path / "plain"), device="cpu", pooling="cls"), **asked)
    bare = model.encode(["a red mug"])
    model.save_pretrained(str(tmp_path / "saved"))
    written = json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())["prompts"]
    assert {name: text for name, text in written.items() if text} == asked
    for loaded in (load_model(tmp_path / "saved", device="cpu"), SentenceTransformer(str(tmp_path / "saved"))):
        for name, encode in (("query", loaded.encode_query), ("document", loaded.encode_document)):
            expected = model.encode([asked.get(name, "") + "a red mug"])
            assert np.abs(encode(["a red mug"]) - expected).max() < 1e-6
            assert bool(np.abs(expected - bare).max() > 1e-3) == (name in asked)


def test_none_leaves_and_nothing_takes_away(tmp_path) -> None:
    model = load_model(text_folder("bert", tmp_path), device="cpu", pooling="cls")
    set_prompts(model, query="find: ", document="doc: ")
    set_prompts(model, query="seek: ")
    assert (model.prompts["query"], model.prompts["document"]) == ("seek: ", "doc: ")
    set_prompts(model, document="")
    assert np.array_equal(model.encode_document(["mug"]), model.encode(["mug"]))
    with pytest.raises(TypeError, match="query=3"):
        set_prompts(model, query=3)


def test_a_format_is_a_prompt_where_the_text_comes_last() -> None:
    assert instruction_prompt("Find:") == "Find:"
    for written in ("Instruct: {}\nQuery: {}", "Instruct: {}\\nQuery: {}", "Instruct: {0}\nQuery: {1}"):
        assert instruction_prompt("Find {x}", written) == "Instruct: Find {x}\nQuery: "
    for bad in ("{}", "{}{}.", "{1}{0}", "{}{}{}", "{a}{b}", "no field", "{!r}{}", "{:>9}{}"):
        with pytest.raises(ValueError, match="must hold {} twice"):
            instruction_prompt("Find", bad)
