"""The file that says how far a run is."""

from __future__ import annotations

import json
from pathlib import Path

from mmembed.training.run_progress import ProgressFile
from tests.training.tiny_runs import make_trainer


def test_it_ends_at_the_last_step_with_a_rate(tmp_path: Path) -> None:
    make_trainer(tmp_path, callbacks=[ProgressFile(tmp_path / "progress.json")], max_steps=3).train()
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert (progress["step"], progress["max_steps"]) == (3, 3)
    assert progress["steps_per_second"] > 0
    assert progress["rows_per_second"] == progress["steps_per_second"] * 4
