"""A log that a stopped run goes on with, the clock of epochs, and gradients of the loss's own parameters."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmembed.training.callbacks import AverageOwnedGradients, EpochClock, MetricsLog


def at(step: int = 0, epoch: float | None = 0.0, first: bool = True) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, epoch=epoch, is_world_process_zero=first)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_new_run_starts_a_new_log(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    log = MetricsLog(path)
    for value in (1.0, 2.0):
        log.on_train_begin(None, at(), None)
        log.on_log(None, at(1), None, logs={"loss": value})
    assert lines(path) == [{"step": 1, "loss": 2.0}]


def test_a_resumed_run_drops_what_it_will_log_again_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.on_train_begin(None, at(), None)
    for step in range(1, 6):
        log.on_log(None, at(step), None, logs={"loss": step / 8})
    with open(path, "a") as file:
        file.write('{"step": 6, "lo')
    log.on_train_begin(None, at(3), None)
    log.on_log(None, at(4), None, logs={"loss": 0.5})
    assert [line["step"] for line in lines(path)] == [1, 2, 3, 4]


def test_what_a_resume_falsifies_is_not_logged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.on_train_begin(None, at(), None)
    log.on_log(None, at(2), None, logs={"train_loss": 1.0, "total_flos": 0.0, "train_runtime": 3.0})
    assert lines(path) == [{"step": 2, "train_runtime": 3.0}]
    log.on_train_begin(None, at(2), None)
    assert lines(path) == []


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.on_train_begin(None, at(first=False), None)
    log.on_log(None, at(1, first=False), None, logs={"loss": 1.0})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("epoch", "number"), [(None, 0), (0.0, 0), (0.999999999, 1), (1.0, 1), (1.4, 1), (2.9999999999, 3), (3.0, 3)]
)
def test_the_clock_names_the_epoch_that_begins(epoch: float | None, number: int) -> None:
    clock = torch.zeros(1, dtype=torch.int64).share_memory_()
    EpochClock(clock).on_epoch_begin(None, at(epoch=epoch), None)
    assert clock.item() == number


def test_a_parameter_without_gradient_gets_zeros() -> None:
    with_gradient, without = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    with_gradient.grad = torch.full((2,), 5.0)
    AverageOwnedGradients(lambda: [with_gradient, without]).on_pre_optimizer_step(None, at(), None)
    assert with_gradient.grad.tolist() == [5.0, 5.0] and without.grad.tolist() == [0.0, 0.0, 0.0]
