"""A run that was stopped and resumed ends in the very weights of one that was not, and never in another run's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from mmembed.training.checkpoints import CheckpointError, verify_checkpoint, write_manifest
from tests.training.tiny_runs import AUGMENTATION, LEARNT, assert_equal, log, make_trainer, state, training_pairs

ROOT = Path(__file__).resolve().parents[2]
# 12 rows in batches of 2, two batches a step: 3 steps an epoch, so that checkpoints 2 and 4 lie within an epoch
EVERYTHING = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "weight_decay": 0.1,
    "warmup_steps": 1,
}
LOSSES = {
    "plain": {"loss_arguments": LEARNT},
    "cached": {
        "loss": "CachedMultipleNegativesRankingLoss",
        "loss_arguments": {**LEARNT, "mini_batch_size": 1},
    },
}


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def build(folder: Path, callbacks: list | None = None, **settings):
    data = training_pairs(12, positives=3, negatives=3)
    data.num_negatives = 2
    return make_trainer(folder, data, augmentation=AUGMENTATION, callbacks=callbacks, **{**EVERYTHING, **settings})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict]]:
    """A finished run of each loss, with its checkpoints 2, 4 and 6, and the state it ended in."""
    finished = {}
    for name, settings in LOSSES.items():
        trainer = build(tmp_path_factory.mktemp(name), **settings)
        trainer.train()
        finished[name] = (Path(trainer.args.output_dir), state(trainer))
    return finished


@pytest.fixture
def run(runs: dict) -> Path:
    return runs["plain"][0]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("loss", LOSSES)
def test_stopped_and_resumed_within_an_epoch_is_bit_for_bit_the_same(
    tmp_path: Path, runs: dict, loss: str, workers: int
) -> None:
    settings = {**LOSSES[loss], "dataloader_num_workers": workers}
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, [StopAt(5)], **settings).train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    torch.manual_seed(12345)  # a new process knows nothing of the old one's generators
    resumed = build(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=True)
    folder, final = runs[loss]
    assert_equal(final, state(resumed))
    assert log(folder) == log(tmp_path) and len(log(folder)) == 6
    first, second = (torch.load(path / "checkpoint-6" / "optimizer.pt") for path in (folder, tmp_path))
    for key, moments in first["state"].items():
        assert all(torch.equal(value, second["state"][key][name]) for name, value in moments.items())


def test_what_is_trained_shows_that_the_randomness_is_real(tmp_path: Path) -> None:
    """Else the test above would hold for a trainer that draws nothing."""
    one, two = (build(tmp_path / str(seed), seed=seed, max_steps=1, num_train_epochs=1) for seed in (1, 2))
    first, second = (trainer._collators["train"]([{"row": 0}]) for trainer in (one, two))
    assert not torch.equal(first["positive_pixel_values"], second["positive_pixel_values"])


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, run: Path, caplog) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    for step in (4, 6):
        (folder / f"checkpoint-{step}" / "optimizer.pt").unlink()
    resumed = build(folder, **LOSSES["plain"])
    steps = []
    resumed.add_callback(
        type("Steps", (TrainerCallback,), {"on_step_end": lambda s, a, st, c, **k: steps.append(st.global_step)})
    )
    with caplog.at_level("WARNING"):
        resumed.train(resume_from_checkpoint=True)
    assert steps == [3, 4, 5, 6]
    assert "checkpoint-6 lacks optimizer.pt" in caplog.text and "checkpoint-4 lacks optimizer.pt" in caplog.text
    assert log(folder) == log(run)
    verify_checkpoint(folder / "checkpoint-6")  # written anew


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"per_device_train_batch_size": 4}, "train_batch_size"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps"),
        ({"seed": 7}, "seed"),
        ({"data_seed": 0}, "seed"),
        ({"batch_sampler": "batch_sampler"}, "batch_sampler"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(run: Path, settings: dict, name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"checkpoint-6 was written with {name}="):
        build(run, **LOSSES["plain"], **settings).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_other_data_is_refused(run: Path) -> None:
    other = training_pairs(12, positives=3, negatives=3, num_negatives=2)
    other.documents = other.documents.map(lambda row: {"text": row["text"] + "!"})
    changed = type(other)(other.queries, other.documents, other.pairs, num_negatives=2, show_progress_bar=False)
    with pytest.raises(CheckpointError, match="train_data_sha256"):
        make_trainer(run, changed, **EVERYTHING, **LOSSES["plain"]).train(resume_from_checkpoint=True)


def test_a_checkpoint_without_the_loss_parameters_or_with_others_is_refused(tmp_path: Path, run: Path) -> None:
    folder = shutil.copytree(run / "checkpoint-4", tmp_path / "checkpoint-4")
    (folder / "loss_parameters.safetensors").unlink()
    write_manifest(folder, verify_checkpoint(run / "checkpoint-4"))
    with pytest.raises(CheckpointError, match="lacks loss_parameters.safetensors, which holds log_scale"):
        build(tmp_path, **LOSSES["plain"]).train(resume_from_checkpoint=str(folder))
    with pytest.raises(CheckpointError, match="'log_scale'|'loss.log_scale'"):
        build(tmp_path, **LOSSES["cached"]).train(resume_from_checkpoint=str(run / "checkpoint-4"))


def test_a_checkpoint_without_an_optimizer_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, save_strategy="steps", save_steps=1, max_steps=1, save_only_model=True).train()
    with pytest.raises(CheckpointError, match="no optimizer"):
        make_trainer(tmp_path, max_steps=2).train(resume_from_checkpoint=True)


def test_a_finished_run_resumes_to_nothing_to_do(tmp_path: Path, run: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    again = build(folder, **LOSSES["plain"])
    again.train(resume_from_checkpoint=True)
    assert log(folder) == log(run)
    runtimes = [line for line in (folder / "metrics.jsonl").read_text().splitlines() if "train_runtime" in line]
    assert len(runtimes) == 1


def test_a_checkpoint_that_cannot_be_written_names_the_disk_and_keeps_the_last(tmp_path: Path, monkeypatch) -> None:
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=1, save_total_limit=1)
    whole = trainer._save_optimizer_and_scheduler

    def full(folder: str) -> None:
        if folder.endswith("-2"):
            raise OSError(28, "No space left on device")
        whole(folder)

    monkeypatch.setattr(trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(
        CheckpointError, match=r"checkpoint-2 could not be written: .*No space.* MiB are free.*checkpoint-1"
    ):
        trainer.train()
    verify_checkpoint(tmp_path / "checkpoint-1")


def test_old_checkpoints_go_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    make_trainer(tmp_path, save_strategy="steps", save_steps=1, save_total_limit=2, max_steps=4).train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    for path in tmp_path.glob("checkpoint-*"):
        verify_checkpoint(path)


# --- a process that dies ------------------------------------------------------------------------------------------


def main() -> None:
    """Train in a process of its own; die where told to."""
    options = json.loads(sys.argv[1])

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    class Die(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            if options.get("die_at_step") == state.global_step:
                die()

    trainer = build(Path(options["folder"]), [Die()], **LOSSES["cached"], dataloader_num_workers=options["workers"])
    if "die_in_save" in options:
        method = options["die_in_save"]
        original = getattr(trainer, method)

        def deadly(*arguments, **kwargs):
            result = original(*arguments, **kwargs)
            if trainer.state.global_step == 4:
                die()
            return result

        setattr(trainer, method, deadly)
    trainer.train(resume_from_checkpoint=True)
    torch.save(state(trainer), Path(options["folder"]) / "state.pt")


def in_a_process(folder: Path, **options) -> int:
    command = [sys.executable, __file__, json.dumps({"folder": str(folder), "workers": 0, **options})]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, timeout=240).returncode


@pytest.mark.slow
@pytest.mark.parametrize(
    "death",
    [
        {"die_at_step": 1},
        {"die_at_step": 5, "workers": 2},
        {"die_in_save": "_save"},
        {"die_in_save": "_save_optimizer_and_scheduler"},
        {"die_in_save": "_save_rng_state"},
    ],
    ids=lambda death: "-".join(str(value) for value in death.values()),
)
def test_kill_9_leaves_what_the_run_needs(tmp_path: Path, runs: dict, death: dict) -> None:
    assert in_a_process(tmp_path, **death) == -signal.SIGKILL
    assert in_a_process(tmp_path, workers=death.get("workers", 0)) == 0
    folder, final = runs["cached"]
    assert_equal(final, torch.load(tmp_path / "state.pt"))
    assert log(folder) == log(tmp_path)


if __name__ == "__main__":
    main()
