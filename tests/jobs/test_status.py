"""`mmembed status`: on a run that is at work, one that is finished, killed, failed, an empty folder, and what is no run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmembed.cli import main
from mmembed.jobs.status import run_status
from mmembed.training.stages import Stage, run_stages
from tests.jobs.tiny_jobs import catalogue_words

ROOT = Path(__file__).resolve().parents[2]


def stage(fails: BaseException | None = None):
    def train(start: str | None, folder: Path) -> dict:
        folder.mkdir(parents=True, exist_ok=True)
        progress = {
            "step": 30,
            "max_steps": 40,
            "steps_per_second": 2.0,
            "rows_per_second": 128.0,
            "updated": time.time(),
        }
        (folder / "progress.json").write_text(json.dumps(progress))
        lines = [
            {"step": 10, "loss": 1.25},
            {"step": 20, "eval_validation_mean_recall": 0.5, "eval_runtime": 1.0},
            {"step": 30, "loss": 0.75},
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 31, "lo')
        if fails is not None:
            raise fails
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "weights.bin").write_text("w")
        return {"best_metric": 0.5}

    return train


def test_finished_and_failed_stages(tmp_path: Path, capsys) -> None:
    stages = [Stage("a", stage()), Stage("b", stage(RuntimeError("the loss is nan"))), Stage("c", stage())]
    with pytest.raises(RuntimeError):
        run_stages(stages, tmp_path)
    found = run_status(tmp_path)
    assert not found["alive"] and [s["state"] for s in found["stages"]] == ["finished", "failed", "waiting"]
    first = found["stages"][0]
    assert (first["step"], first["max_steps"], first["loss"], first["metric"]) == (
        30,
        40,
        0.75,
        ["validation_mean_recall", 0.5],
    )
    assert first["seconds_left"] is None and first["best_metric"] == 0.5
    assert main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "30/40 (75 %)" in shown and "validation_mean_recall 0.5" in shown
    assert "b failed: RuntimeError: the loss is nan" in shown
    assert main(["status", "--run_dir", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][1]["state"] == "failed"


def test_an_interrupted_stage_says_how_to_go_on(tmp_path: Path, capsys) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_stages([Stage("a", stage(KeyboardInterrupt()))], tmp_path)
    assert main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "interrupted" in shown and "start the same command again" in shown


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from mmembed.training.stages import Stage, run_stages
from tests.jobs.test_status import stage

def train(start, folder):
    stage()(start, folder)
    print("ready", flush=True)
    time.sleep(60)

run_stages([Stage("a", train), Stage("b", train)], sys.argv[1])
"""


def test_a_run_at_work_and_one_that_was_killed(tmp_path: Path, capsys) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), str(ROOT)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        found = run_status(tmp_path)
        assert found["alive"] and found["holder"]["pid"] == child.pid
        assert [s["state"] for s in found["stages"]] == ["running", "waiting"]
        assert found["stages"][0]["seconds_left"] == 5.0  # ten steps at two a second
        assert main(["status", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert "2 steps/s, 128 rows/s" in shown and "5 s" in shown and f"process {child.pid}" in shown
    finally:
        child.kill()
        child.wait()
    assert [s["state"] for s in run_status(tmp_path)["stages"]] == ["killed", "waiting"]
    assert main(["status", str(tmp_path)]) == 0
    assert "killed" in capsys.readouterr().out


def test_a_plain_training_run(tmp_path: Path, capsys) -> None:
    assert main(["train", *catalogue_words(tmp_path / "run", tmp_path / "cache", logging_steps=1)]) == 0
    capsys.readouterr()
    (found,) = run_status(tmp_path / "run")["stages"]
    assert found["stage"] == "run" and found["state"] == "finished" and found["step"] == found["max_steps"] > 0
    assert found["loss"] > 0
    (tmp_path / "run" / "metrics.json").unlink()  # as if it had been killed while it measured
    assert run_status(tmp_path / "run")["stages"][0]["state"] == "killed"


def test_a_run_without_a_progress_file_is_known_by_its_checkpoint(tmp_path: Path) -> None:
    for step in (20, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        state = {"global_step": step, "max_steps": 200}
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    (found,) = run_status(tmp_path)["stages"]
    assert (found["state"], found["step"], found["max_steps"]) == ("killed", 100, 200)


def test_an_empty_folder(tmp_path: Path, capsys) -> None:
    assert main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: empty; nothing has run here yet\n"


def test_what_is_no_run_is_said(tmp_path: Path, capsys) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"1")
    assert main(["status", str(tmp_path)]) == 2
    assert "is no run's folder" in (error := capsys.readouterr().err) and "photo.jpg" in error
    assert main(["status", str(tmp_path / "gone")]) == 2
    assert "gone is not there" in capsys.readouterr().err
    assert main(["status", str(tmp_path / "photo.jpg")]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert main(["status"]) == 2
    assert "--run_dir" in capsys.readouterr().err
