"""A chain starts each stage from the best of the one before, goes on where it was cut, and never trains a finished stage again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmembed.training.run_lock import RunBusyError, run_holder
from mmembed.training.stages import Stage, StageError, read_chain, run_stages, weights_sha256

ROOT = Path(__file__).resolve().parents[2]


class Trainer:
    """Writes what it started from and its own name as weights; fails where told to."""

    def __init__(self, name: str, fails: BaseException | None = None) -> None:
        self.name, self.fails, self.started_from = name, fails, []

    def __call__(self, start: str | None, folder: Path) -> dict:
        self.started_from.append(start)
        if self.fails is not None:
            (folder / "checkpoint-1").mkdir(parents=True, exist_ok=True)
            failing, self.fails = self.fails, None
            raise failing
        before = (Path(start) / "weights.bin").read_text() if start else ""
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "model" / "weights.bin").write_text(f"{before}{self.name} ")
        (folder / "model" / "config.json").write_text("{}")
        (folder / "model" / "README.md").write_text("card")
        return {"best_metric": 0.5}


def chain(*trainers: Trainer, **settings) -> list[Stage]:
    return [Stage(trainer.name, trainer, settings) for trainer in trainers]


def test_each_stage_starts_from_the_model_of_the_one_before(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "weights.bin").write_text("base ")
    trainers = [Trainer(name) for name in "abc"]
    records = run_stages(chain(*trainers), tmp_path / "run", start=base)
    assert [trainer.started_from for trainer in trainers] == [
        [str(base)],
        [str(tmp_path / "run" / "01-a" / "model")],
        [str(tmp_path / "run" / "02-b" / "model")],
    ]
    assert (records[2].model / "weights.bin").read_text() == "base a b c "
    assert records[0].start_sha256 == weights_sha256(base) and records[1].start_sha256 == records[0].model_sha256
    assert read_chain(tmp_path / "run") == records
    assert run_holder(tmp_path / "run") is None


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), RuntimeError("the loss is nan")], ids=["interrupt", "error"])
def test_a_cut_chain_goes_on_in_the_stage_that_was_cut(tmp_path: Path, failure: BaseException) -> None:
    first, second = Trainer("a"), Trainer("b", failure)
    with pytest.raises(type(failure)):
        run_stages(chain(first, second), tmp_path)
    states = [record.state for record in read_chain(tmp_path)]
    assert states == ["finished", "interrupted" if isinstance(failure, KeyboardInterrupt) else "failed"]
    if states[1] == "failed":
        assert read_chain(tmp_path)[1].error == "RuntimeError: the loss is nan"
    records = run_stages(chain(first, second), tmp_path)
    assert len(first.started_from) == 1 and len(second.started_from) == 2
    assert (records[1].model / "weights.bin").read_text() == "a b " and records[1].error is None


def test_the_report_is_called_before_the_first_stage_and_after_each(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    run_stages(
        chain(Trainer("a"), Trainer("b")), tmp_path, report=lambda records: seen.append([r.name for r in records])
    )
    assert seen == [[], ["a"], ["a", "b"]]


def test_a_failing_report_is_made_good_without_training_again(tmp_path: Path) -> None:
    first, second = Trainer("a"), Trainer("b")

    def fail(records: list) -> None:
        if records:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run_stages(chain(first, second), tmp_path, report=fail)
    seen: list[int] = []
    run_stages(chain(first, second), tmp_path, report=lambda records: seen.append(len(records)))
    assert seen == [0, 1, 2] and len(first.started_from) == 1


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    run_stages(chain(Trainer("a"), learning_rate=1e-5, seed=1), tmp_path)
    with pytest.raises(
        StageError, match=r"'a' was trained with other settings: learning_rate \(first: 1e-05, now 0.1\)"
    ):
        run_stages(chain(Trainer("a"), learning_rate=0.1, seed=1), tmp_path)


def test_a_stage_that_has_a_checkpoint_keeps_its_settings_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_stages(chain(Trainer("a", KeyboardInterrupt()), epochs=1), tmp_path)
    with pytest.raises(StageError, match="was begun with other settings: epochs"):
        run_stages(chain(Trainer("a"), epochs=2), tmp_path)


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_model_that_was_changed_since_is_refused(tmp_path: Path, damage: str) -> None:
    records = run_stages(chain(Trainer("a"), Trainer("b")), tmp_path)
    file = records[0].model / "weights.bin"
    file.write_text("other") if damage == "change" else file.unlink()
    with pytest.raises(StageError, match=r"01-a/model/weights.bin is (not what was written|missing)|holds no weights"):
        run_stages(chain(Trainer("a"), Trainer("b")), tmp_path)


def test_a_card_may_be_edited(tmp_path: Path) -> None:
    records = run_stages(chain(Trainer("a")), tmp_path)
    (records[0].model / "README.md").write_text("a better card")
    assert run_stages(chain(Trainer("a")), tmp_path) == records


def test_a_stage_from_another_model_is_refused(tmp_path: Path) -> None:
    run_stages(chain(Trainer("a"), Trainer("b")), tmp_path)
    (tmp_path / "01-a" / "stage.json").unlink()

    class Another(Trainer):
        def __call__(self, start: str | None, folder: Path) -> dict:
            facts = super().__call__(start, folder)
            (folder / "model" / "weights.bin").write_text("another")
            return facts

    with pytest.raises(StageError, match="'b' started from other weights"):
        run_stages(chain(Another("a"), Trainer("b")), tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "at least one stage"), (["a", "a"], "two stages are called 'a'"), (["a/b"], "letters, digits")],
)
def test_names_that_cannot_be_folders_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(StageError, match=message):
        run_stages(chain(*(Trainer(name) for name in names)), tmp_path)


def test_a_stage_that_leaves_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="left no model"):
        run_stages([Stage("a", lambda start, folder: {})], tmp_path)


def test_a_broken_record_says_what_to_remove(tmp_path: Path) -> None:
    run_stages(chain(Trainer("a")), tmp_path)
    (tmp_path / "01-a" / "stage.json").write_text("{")
    with pytest.raises(StageError, match=r"stage.json cannot be read .*; remove"):
        run_stages(chain(Trainer("a")), tmp_path)


# --- processes ------------------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys, time
from pathlib import Path
from mmembed.training.stages import Stage, run_stages

def train(name):
    def job(start, folder):
        with open(folder / "log" if folder.mkdir(parents=True, exist_ok=True) else folder / "log", "a") as log:
            log.write("began ")
        if name == "b" and sys.argv[2] == "die":
            print("ready", flush=True)
            time.sleep(60)
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "weights.bin").write_text(name)
        return {}
    return job

run_stages([Stage(name, train(name)) for name in "abc"], sys.argv[1])
"""


def start(folder: Path, how: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(folder), how]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_kill_9_in_the_second_stage(tmp_path: Path) -> None:
    child = start(tmp_path, "die")
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    holder = run_holder(tmp_path)
    assert holder is not None and holder["pid"] == child.pid
    with pytest.raises(RunBusyError, match=f"process {child.pid} on"):
        run_stages(chain(Trainer("a")), tmp_path)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert run_holder(tmp_path) is None
    assert [record.state for record in read_chain(tmp_path)] == ["finished", "running", "waiting"]
    again = start(tmp_path, "live")
    assert again.wait(timeout=120) == 0
    assert [record.state for record in read_chain(tmp_path)] == ["finished"] * 3
    assert [(tmp_path / name / "log").read_text() for name in ("01-a", "02-b", "03-c")] == [
        "began ",
        "began began ",
        "began ",
    ]
    assert json.loads((tmp_path / "stages.json").read_text())["stages"][0] == {"name": "a", "folder": "01-a"}
