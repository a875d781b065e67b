"""The recipe of captions, in small: every way to ask is played, kept, and printed with its controls."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmembed.interactive.session_log import read_rounds
from mmembed.models.dual_encoder.building import build_dual_encoder

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "visdial"
CAPTIONS = Path(__file__).resolve().parents[3] / "shared" / "data" / "dialogues" / "plugir_coco_captions.json"
THINGS = ("dog", "cat", "mug", "plate", "train", "bus", "wave", "kite")
PLACES = ("kitchen", "street", "beach", "field")
COLOURS = ("red", "blue", "green", "black", "white")


def caption(generator: np.random.Generator, image: int) -> str:
    """What somebody says of an image: some of what is true of it."""
    words = [COLOURS[image % 5], THINGS[image // 5 % 8], PLACES[image // 40 % 4]]
    return "a photo of a " + " ".join(word for word in words if generator.random() < 0.7 or word == words[1])


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["measure.py", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(RECIPE / "measure.py"), run_name="__main__")
    assert left.value.code == 0


def test_every_way_is_played_and_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    generator = np.random.default_rng(0)
    rows = [{"caption": [caption(generator, image) for _ in range(5)]} for image in range(160)]
    (tmp_path / "captions.json").write_text(json.dumps(rows), encoding="utf-8")
    build_dual_encoder(
        [" ".join((*THINGS, *PLACES, *COLOURS))], text_hidden_size=16, text_layers=1, image_size=32, image_embedding_size=8,
        image_hidden_sizes=[8], image_depths=[1], projection_dim=16,
    ).save(str(tmp_path / "model"))  # fmt: skip
    settings = yaml.safe_load((RECIPE / "coco_captions.yaml").read_text(encoding="utf-8"))
    settings |= {"min_df": 3, "rounds": 4, "pool": 60, "text_model": str(tmp_path / "model"), "query_words": 1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    words = [
        "--config",
        tmp_path / "config.yaml",
        "--captions",
        tmp_path / "captions.json",
        "--output_dir",
        tmp_path / "out",
    ]
    run(monkeypatch, *words, "--limit", 20)
    told = capsys.readouterr().out
    assert "160 images, 17 words, 80 known, 20 targets" in told and "noise control (" in told
    metrics = json.loads((tmp_path / "out" / "test" / "metrics.json").read_text())
    assert len(metrics) == 11 and all(own["n"] == 20 and own["rounds"] == 4 for own in metrics.values())
    start = {own["mrr[round=0]"] for own in metrics.values()}
    assert len(start) == 1  # every way begins with the same ranking
    assert metrics["oracle"]["bri"] < metrics["EIG"]["bri"] < metrics["random"]["bri"]
    rounds = read_rounds(tmp_path / "out" / "test" / "EIG.jsonl")
    targets = {int(one.target) for one in rounds if one.target}
    assert all(image % 2 for image in targets) and {one.turn.answer.source for one in rounds if one.turn} == {
        "held out"
    }
    run(monkeypatch, *words, "--part", "validation", "--ways", "EIG", "concepts 15")
    assert "160 images, 17 words, 64 known, 16 targets" in capsys.readouterr().out
    validated = {int(one.target) for one in read_rounds(tmp_path / "out" / "validation" / "EIG.jsonl") if one.target}
    assert all(image % 2 == 0 for image in validated)


@pytest.mark.slow
def test_the_world_is_that_of_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the captions of COCO: counts of the world, and the reference's figures on 200 of its targets."""
    if not CAPTIONS.exists():
        pytest.skip("needs ../shared")
    config = RECIPE / "coco_captions.yaml"
    run(
        monkeypatch, "--config", config, "--captions", CAPTIONS, "--output_dir", tmp_path, "--limit", 200, "--ways", "EIG",
        "random", "frequent",
    )  # fmt: skip
    metrics = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert metrics["EIG"]["hits@10"] > 0.5 > 0.46 > metrics["random"]["hits@10"]
    assert metrics["EIG"]["bri"] < metrics["frequent"]["bri"] < metrics["random"]["bri"]
