"""The recipe is the verb, and the configuration of the fashion products is one of its options."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from mmembed.jobs.interact_options import InteractOptions
from mmembed.jobs.options import parse_options

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def test_the_recipe_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    words = [
        "--simulate",
        "3",
        "--catalogue",
        '{"products": 30, "photos": 1, "size": 16, "cache_dir": null, "num_workers": 0}',
    ]
    words += ["--part", "all", "--output_dir", str(tmp_path), "--no_show_progress_bar", "--questioners", "gain"]
    monkeypatch.setattr(sys, "argv", ["interactive.py", *words])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(RECIPES / "interactive.py"), run_name="__main__")
    assert left.value.code == 0 and "noise control" in capsys.readouterr().out


def test_the_configuration_of_fashion_is_understood() -> None:
    options = parse_options(InteractOptions, ["--config", str(RECIPES / "fashion" / "interactive.yaml")])
    assert (
        options.attribute_source == "vectors" and "baseColour" in options.attributes and options.answer_unknown == 0.1
    )
