"""The average against one kept by hand, through checkpoints, evaluation and the choice of the best."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from mmembed.training.checkpoints import CheckpointError, verify_checkpoint
from mmembed.training.ema import EMA_FILE, ExponentialMovingAverage
from tests.training.tiny_runs import assert_equal, make_trainer, state

DECAY = 0.6


class ByHand(TrainerCallback):
    """All weights after each step, copied."""

    def __init__(self) -> None:
        self.steps: list[dict] = []

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        self.steps.append({name: p.detach().clone() for name, p in model.named_parameters()})


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def with_ema(folder: Path, callbacks: list | None = None, evaluator=None, **settings):
    trainer = make_trainer(folder, callbacks=callbacks, evaluator=evaluator, **settings)
    ema = ExponentialMovingAverage(trainer.model, DECAY)
    trainer.add_callback(ema)
    if evaluator is not None:
        trainer.evaluator = ema.evaluated(evaluator)
    return trainer


def test_the_model_ends_as_the_average_of_its_steps(tmp_path: Path) -> None:
    hand = ByHand()
    trainer = with_ema(tmp_path, [hand], max_steps=4)
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    for name, parameter in trainer.model.named_parameters():
        wanted = start[name]
        for step in hand.steps:
            wanted = DECAY * wanted + (1 - DECAY) * step[name]
        torch.testing.assert_close(parameter.detach(), wanted if name in trained else start[name])
    assert any(not torch.equal(p, hand.steps[-1][n]) for n, p in trainer.model.named_parameters() if n in trained)


def test_a_resumed_run_ends_in_the_very_same_average(tmp_path: Path) -> None:
    settings = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2}
    whole = with_ema(tmp_path / "whole", **settings)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        with_ema(tmp_path / "cut", [StopAt(3)], **settings).train()
    resumed = with_ema(tmp_path / "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert_equal(state(whole), state(resumed))
    verify_checkpoint(tmp_path / "cut" / "checkpoint-2")
    assert EMA_FILE in (tmp_path / "cut" / "checkpoint-2" / "manifest.json").read_text()


def test_a_checkpoint_without_the_average_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    with pytest.raises(CheckpointError, match=f"lacks {EMA_FILE}"):
        with_ema(tmp_path, max_steps=3).train(resume_from_checkpoint=True)


def test_evaluation_sees_the_average_and_the_best_average_is_kept(tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

    class Seen(SentenceEvaluator):
        """Scores the second evaluation best, and keeps what it was shown."""

        def __init__(self) -> None:
            super().__init__()
            self.primary_metric, self.weights = "seen", []

        def __call__(self, model, output_path=None, epoch=-1, steps=-1) -> dict:
            self.weights.append({name: p.detach().clone() for name, p in model.named_parameters()})
            return {"seen": 1.0 if len(self.weights) == 2 else 0.0}

    hand, seen = ByHand(), Seen()
    trainer = with_ema(
        tmp_path,
        [hand],
        seen,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="seen",
        greater_is_better=True,
    )
    name = next(name for name, p in trainer.model.named_parameters() if p.requires_grad and p.ndim == 2)
    start = dict(trainer.model.named_parameters())[name].detach().clone()
    trainer.train()
    average = start
    for step, shown in zip(hand.steps, seen.weights):
        average = DECAY * average + (1 - DECAY) * step[name]
        torch.testing.assert_close(shown[name], average)
    torch.testing.assert_close(dict(trainer.model.named_parameters())[name].detach(), seen.weights[1][name])


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"ema={decay}"):
        ExponentialMovingAverage(torch.nn.Linear(1, 1), decay)
