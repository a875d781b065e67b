"""Measure a catalogue from the recipe, as a user runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from mmembed.models.dual_encoder.building import build_dual_encoder
from tests.jobs.tiny_jobs import MODEL, THINGS, WORDS
from tests.recipes.test_ft_embedding import ROOT, start

RECIPE = str(ROOT / "recipes" / "run_evaluation.py")


def test_the_drawn_catalogue_is_measured_and_the_page_is_there(tmp_path: Path) -> None:
    torch.manual_seed(0)
    build_dual_encoder([*WORDS, *THINGS], **MODEL).save_pretrained(str(tmp_path / "model"))
    drawn = json.dumps(
        {"products": 60, "size": 48, "photos": 2, "cache_dir": str(tmp_path / "cache"), "num_workers": 0}
    )
    words = [
        "retrieval",
        "--model",
        "model",
        "--catalogue",
        drawn,
        "--bootstrap_samples",
        "50",
        "--no_show_progress_bar",
    ]
    done = start([sys.executable, RECIPE, *words], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "runs/evaluate/report.html" in done.stdout and "text_to_image_success@1" in done.stdout
    page = (tmp_path / "runs" / "evaluate" / "report.html").read_text(encoding="utf-8")
    assert "mmembed evaluate retrieval --model model" in page
    numbers = json.loads((tmp_path / "runs" / "evaluate" / "metrics.json").read_text())
    assert numbers["sections"]["retrieval"]["metrics"]["text_to_image_n"] > 5


def test_a_wrong_word_ends_with_status_2(tmp_path: Path) -> None:
    for words in (["retreival"], ["all", "--modell", "x"], ["all"]):
        done = start([sys.executable, RECIPE, *words], tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_is_quick_and_says_what_there_is(tmp_path: Path) -> None:
    done = start([sys.executable, "-X", "importtime", RECIPE, "--help"], tmp_path)
    assert done.returncode == 0 and "--base_model" in done.stdout and "zero-shot" in done.stdout
    assert " torch\n" not in done.stderr and " numpy\n" not in done.stderr
