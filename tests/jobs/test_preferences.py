"""The verb: dialogues over the drawn catalogue, or another system's log, in; parquet files that TRL trains on out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mmembed.cli import main
from mmembed.images import ImageError
from mmembed.interactive.preference_checks import check_preference_rows
from mmembed.interactive.preference_rows import read_preference_rows
from mmembed.interactive.preferences import TargetLeakError
from mmembed.jobs.options import OptionsError, parse_options
from mmembed.jobs.preferences import run
from mmembed.jobs.preferences_options import PreferencesOptions

CATALOGUE = {"products": 120, "photos": 1, "size": 32}
SMALL = {
    "catalogue": CATALOGUE, "simulate": 20, "top_k": 1, "min_chosen": 0.2, "min_margin": 0.2, "max_rejected": 9.0, "targets": 3,
    "query_column": "category", "attributes": ["colour", "pattern", "material"], "kinds": ["yes_no"], "show_progress_bar": False,
    "questions": 4, "num_shown": 3,
}  # fmt: skip


def options_of(out, **changes):
    words = []
    for name, value in {**SMALL, "output_dir": out, **changes}.items():
        words += [
            f"--{name}",
            json.dumps(value) if isinstance(value, (dict, list, bool)) or value is None else str(value),
        ]
    return words


def test_pairs_of_the_drawn_catalogue(tmp_path, capsys):
    assert main(["preferences", *options_of(tmp_path, after_rounds=[0, 1], captions="text")]) == 0
    train, test = (read_preference_rows(tmp_path / f"{name}.parquet") for name in ("train", "test"))
    check_preference_rows(train)
    assert len(train) > 4 and not set(train["target_key"]) & set(test["target_key"])
    row = train[0]
    assert len(row["images"]) == 3 and row["images"][0].size == (32, 32)
    assert "<<<captions" in row["prompt"][0]["content"][-1]["text"]
    assert row["chosen_score"] >= 0.2 and row["chosen_score"] - row["rejected_score"] >= 0.2
    assert row["rank_before"] > 1 and len(row["chosen_gains_by_seed"]) == 2
    assert set(train["round"]) == {0, 1}
    figures = json.loads((tmp_path / "report.json").read_text())
    assert figures["pairs"]["train"]["pairs"] == len(train) and figures["states"]["tried"] > 0
    assert "What was dropped" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "kept" in capsys.readouterr().out
    # once more: what was tried is read, and the same pairs come out
    before = (tmp_path / "tried.jsonl").read_bytes()
    again = run(parse_options(PreferencesOptions, options_of(tmp_path, after_rounds=[0, 1], captions="text")))
    assert (tmp_path / "tried.jsonl").read_bytes() == before
    assert again.train.remove_columns("images")[:] == train.remove_columns("images")[:]


def test_other_seeds_answer_otherwise(tmp_path):
    found = run(parse_options(PreferencesOptions, options_of(tmp_path, answer_error=0.4, min_agreeing_seeds=1)))
    gains = [row["chosen_gains_by_seed"] for row in found.train]
    assert any(one != other for one, other in gains)


def test_a_target_of_the_evaluation_set_is_refused_with_status_3(tmp_path, capsys):
    found = run(parse_options(PreferencesOptions, options_of(tmp_path / "a")))
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps([found.train[0]["target"]]))
    assert main(["preferences", *options_of(tmp_path / "b", evaluation_targets=ids)]) == 3
    assert "is also in the evaluation set" in capsys.readouterr().err
    assert not (tmp_path / "b" / "train.parquet").exists()


def made_up_log(folder, shown=("a.png", "b.png")):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "t0.png", "t1.png", "t2.png"):
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(folder / name)
    records = []
    for number in range(12):
        target = f"t{number % 3}.png"
        shared = {"target": target, "caption": f"a dog {number}", "images": list(shown), "rank_before": 40}
        records += [
            {**shared, "question": "Is it brown?", "rank_after": 10},
            {**shared, "question": "Is there a ball?", "rank_after": 41},
        ]
    path = folder / "log.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


def test_another_systems_log(tmp_path):
    path = made_up_log(tmp_path)
    words = [
        "--rank_log",
        str(path),
        "--image_folder",
        str(tmp_path),
        "--output_dir",
        str(tmp_path / "out"),
        "--show_progress_bar",
        "false",
    ]
    with pytest.raises(OptionsError, match="no pair to train on"):
        run(parse_options(PreferencesOptions, words))  # one roll-out each; two seeds are asked to agree
    found = run(parse_options(PreferencesOptions, [*words, "--min_agreeing_seeds", "1", "--held_out_percent", "40"]))
    assert len(found.train) + len(found.test) == 12
    assert not set(found.train["target_key"]) & set(found.test["target_key"])
    check_preference_rows(found.train)
    assert found.train[0]["rejected"][0]["content"][0]["text"] == "Is there a ball?"
    ids = tmp_path / "ids.txt"
    ids.write_text("t1.png\n")
    with pytest.raises(TargetLeakError):
        run(parse_options(PreferencesOptions, [*words, "--min_agreeing_seeds", "1", "--evaluation_targets", str(ids)]))


@pytest.mark.security
def test_a_log_cannot_name_images_elsewhere(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    path = made_up_log(folder, shown=("a.png", "../secret.png"))
    words = [
        "--rank_log",
        str(path),
        "--image_folder",
        str(folder),
        "--output_dir",
        str(tmp_path / "out"),
        "--min_agreeing_seeds",
        "1",
    ]
    with pytest.raises(ImageError):
        run(parse_options(PreferencesOptions, words))
    assert not (tmp_path / "out" / "train.parquet").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": 1}, "--questions: found 1, wanted at least 2"),
        ({"asks": "vision_language"}, "--asks vision_language and --questioner_model"),
        ({"answer_seeds": 1}, "--min_agreeing_seeds 2 of --answer_seeds 1"),
        ({"rank_log": "a.jsonl"}, "--image_folder: name the folder"),
        ({"rank_log": "a.jsonl", "dpo_json": "b.json", "image_folder": "."}, "--rank_log and --dpo_json"),
        ({"min_margin": 0.0}, "min_margin is above 0"),
        ({"min_chosen": 50.0}, "no pair to train on"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path, changes, message):
    with pytest.raises(OptionsError, match=message):
        run(parse_options(PreferencesOptions, options_of(tmp_path, **changes)))
