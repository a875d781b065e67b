"""Drawn states, their labels against entropies by hand, balanced pairs, parts that share no product, and the whole run in small."""

from __future__ import annotations

import json
import math

import pytest

from mmembed.interactive.preference_checks import check_preference_rows
from mmembed.jobs.catalogue_questions import CatalogueQuestions, catalogue_parts
from mmembed.jobs.dpo import run
from mmembed.jobs.dpo_options import DpoOptions
from mmembed.jobs.options import OptionsError, parse_options

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
SMALL = {"products": 400, "size": 28, "states": 90, "held_out_states": 60, "attributes": ["colour", "pattern"]}
ENTROPY = {0: 0.0, 1: 0.500402, 2: 0.673012, 3: 0.673012, 4: 0.500402, 5: 0.0}


@pytest.fixture(scope="module")
def parts():
    return catalogue_parts(CatalogueQuestions(**SMALL), ("train", "test"))


def test_labels_are_entropies_of_what_is_shown(parts):
    train = parts["train"]
    held = {
        id: {name: value for name, value in row.items()}
        for id, row in zip(train.items["id"], train.items.select_columns(["colour", "pattern"]))
    }
    rows = train.pairs()
    check_preference_rows(rows)
    assert len(rows) > 10
    for row in rows:
        shown = [held[id] for id in row["shown"]]
        if any(value is None for one in shown for value in one.values()):
            continue  # an attribute that is not told counts by its share of all products
        for side in ("chosen", "rejected"):
            slot, _, value = row[f"{side}_attribute"].partition("=")
            count = sum(one[slot] == value for one in shown)
            assert row[f"{side}_score"] == pytest.approx(ENTROPY[count], abs=1e-4)
            assert value in row[side][0]["content"][0]["text"]
        assert row["chosen_score"] >= row["rejected_score"] + 0.1
        assert math.isnan(row["rank_before"]) and len(row["images"]) == len(row["shown"]) == 5


def test_texts_alone_decide_nothing(parts):
    rows = parts["train"].pairs()
    directions = {}
    for row in rows:
        texts = tuple(row[side][0]["content"][0]["text"] for side in ("chosen", "rejected"))
        directions[texts] = directions.get(texts, 0) + 1
    assert all(directions.get(texts[::-1]) == count for texts, count in directions.items())


def test_parts_share_no_product_and_dialogues_have_rounds(parts):
    ids = [set(part.items["id"]) for part in parts.values()]
    assert not ids[0] & ids[1]
    states = parts["train"].states(90)
    assert {one.state.round for one in states} == {0, 1, 2} and len({one.key for one in states}) == len(states)
    for one in states:
        asked = [turn.question.attribute for turn in one.state.turns]
        assert len(set(asked)) == len(asked)
        for sides in parts["train"].two_and_two(one):
            assert not {side.question.attribute for side in sides} & set(asked)
    assert all(set(one.state.shown) <= ids[0] for one in states)


def test_captions_are_told_when_asked_for():
    told = catalogue_parts(CatalogueQuestions(**SMALL, captions=True), ("train",))["train"]
    row = told.pairs()[0]
    assert "<<<captions" in row["prompt"][0]["content"][-1]["text"]


def test_the_whole_run_in_small(tmp_path):
    catalogue = {
        **SMALL,
        "states": 60,
        "see_steps": 4,
        "ask_steps": 3,
        "hidden_size": 32,
        "image_hidden_size": 16,
        "layers": 1,
    }
    words = ["--output_dir", str(tmp_path), "--catalogue", json.dumps(catalogue), "--train", "full", "--max_steps", "2", "--use_cpu", "true",
             "--per_device_train_batch_size", "4", "--disable_tqdm", "true", "--bootstrap_samples", "100", "--loop_dialogues", "2",
             "--loop_rounds", "1"]  # fmt: skip
    found = run(parse_options(DpoOptions, words))
    assert set(found["accuracy"]) == {"base", "trained"} and found["steps"] == 2
    assert set(found["without images"]) == {"text", "template", "length"}
    assert set(found["loop"]["compared"]) == {"base", "any of the shown", "attributes"}
    assert (tmp_path / "model" / "model.safetensors").is_file()
    base = (tmp_path / "catalogue" / "base" / "model.safetensors").stat().st_mtime_ns
    again = run(parse_options(DpoOptions, words))  # the model that was taught is read, not taught again
    assert (tmp_path / "catalogue" / "base" / "model.safetensors").stat().st_mtime_ns == base
    assert again["accuracy"]["base"] == found["accuracy"]["base"]


@pytest.mark.parametrize(
    ("catalogue", "message"),
    [
        ({"product": 3}, "did you mean 'products'"),
        ({"part": "train"}, "validation, to choose settings on, or test"),
        ({"products": 1}, "none of them falls into the part"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path, catalogue, message):
    with pytest.raises(OptionsError, match=message):
        run(parse_options(DpoOptions, ["--output_dir", str(tmp_path), "--catalogue", json.dumps(catalogue)]))
