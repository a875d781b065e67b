"""Adapters move and nothing else does; what is saved is a stock model with the same vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import TrainerCallback

from mmembed.training.lora import add_lora, merge_lora
from tests.tiny_models import tiny_clip, tiny_dual_encoder
from tests.training.tiny_runs import LEARNT, assert_equal, items, make_trainer, state

LORA = {"r": 2, "lora_alpha": 8, "target_modules": ["query", "value", "q_proj", "v_proj"], "lora_dropout": 0.1}
ROWS = [{"text": "red word1"}, {"text": "blue word2 colour2"}]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("make", [tiny_dual_encoder, tiny_clip])
def test_only_adapters_move(tmp_path: Path, make) -> None:
    trainer = make_trainer(tmp_path, model=make(), lora=LORA)
    before = weights(trainer.model)
    trainer.train()
    changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    adapters = {n for n in before if "lora_" in n}
    assert adapters and changed == adapters


def test_batch_statistics_of_what_is_frozen_stay(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, lora=LORA)
    before = {n: b.clone() for n, b in trainer.model.named_buffers()}
    trainer.train()
    assert all(torch.equal(b, before[n]) for n, b in trainer.model.named_buffers())


def test_modules_to_save_are_trained_whole(tmp_path: Path) -> None:
    model = tiny_dual_encoder()
    stock = set(weights(model))
    trainer = make_trainer(tmp_path, model=model, lora={**LORA, "modules_to_save": ["visual_projection"]})
    trainer.train()
    vectors = model.encode(ROWS)
    merge_lora(model)
    assert set(weights(model)) == stock
    assert not torch.equal(
        model.transformers_model.visual_projection[1].weight,
        tiny_dual_encoder().transformers_model.visual_projection[1].weight,
    )
    np.testing.assert_allclose(model.encode(ROWS), vectors, atol=1e-6)


@pytest.mark.parametrize("make", [tiny_dual_encoder, tiny_clip])
def test_merged_and_saved_it_is_a_stock_model_with_the_same_vectors(tmp_path: Path, make) -> None:
    model = make()
    stock = set(weights(model))
    trainer = make_trainer(tmp_path / "run", model=model, lora=LORA, learning_rate=0.1)
    untrained = model.encode(ROWS)
    trainer.train()
    adapted = model.encode(ROWS)
    assert np.abs(adapted - untrained).max() > 1e-3
    merge_lora(model)
    assert set(weights(model)) == stock
    model.save_pretrained(str(tmp_path / "model"))
    assert not list((tmp_path / "model").rglob("adapter*"))
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(loaded.encode(ROWS), adapted, atol=1e-5)


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


def test_a_stopped_run_with_adapters_resumes_bit_for_bit(tmp_path: Path) -> None:
    settings = {"lora": LORA, "loss_arguments": LEARNT, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "cut", callbacks=[Stop()], **settings).train()
    torch.manual_seed(99)
    resumed = make_trainer(tmp_path / "cut", **settings)
    with torch.no_grad():  # the adapters' random start must come from the checkpoint as well
        for name, parameter in resumed.model.named_parameters():
            if "lora_A" in name:
                parameter.normal_()
    resumed.train(resume_from_checkpoint=True)
    assert_equal(state(whole), state(resumed))


def test_a_target_that_matches_nothing_and_an_unknown_argument_are_refused() -> None:
    with pytest.raises(ValueError, match="querry"):
        add_lora(tiny_dual_encoder(), {"target_modules": ["querry"]})
    with pytest.raises(ValueError, match="rank"):
        add_lora(tiny_dual_encoder(), {"rank": 4, "target_modules": ["query"]})


def test_a_model_without_adapters_is_returned_as_it_is() -> None:
    model = tiny_dual_encoder()
    before = weights(model)
    assert merge_lora(model) is model
    assert_equal(before, weights(model))
    assert items(1)["id"][:] == ["i0"]
