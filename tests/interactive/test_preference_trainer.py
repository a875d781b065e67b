"""Preference training of a tiny Idefics3: it learns, its reference is computed once, it saves, reloads and resumes."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel

from mmembed.data.schema import DataError
from mmembed.interactive.preference_checks import PreferenceTrainingError
from mmembed.interactive.preference_trainer import (
    LANGUAGE_MODEL,
    LOSSES,
    PairCollator,
    PreferenceTrainer,
    preference_arguments,
)
from mmembed.training.checkpoints import CheckpointError
from mmembed.training.trainer import NonFiniteError
from tests.interactive.tiny_questioner import colour_pairs, tiny_folder, tiny_model, tiny_processor

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
SHORT = "Ask."


def lora(**changes):
    return LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": LANGUAGE_MODEL, **changes})


def make(tmp_path, *, adapter=None, rows=None, model=None, precompute=True, held_out=None, loss="sigmoid", **arguments):
    fitting = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "max_steps": 8, "logging_steps": 1, "save_strategy": "no",
               "disable_tqdm": True, "learning_rate": 2e-3, "use_cpu": True, "lr_scheduler_type": "constant"}  # fmt: skip
    return PreferenceTrainer(
        model or tiny_model(),
        preference_arguments(str(tmp_path), loss=loss, **{**fitting, **arguments}),
        train_dataset=rows or colour_pairs(8, instructions=SHORT),
        eval_dataset=held_out,
        processing_class=tiny_processor(),
        adapter=adapter,
        precompute_reference=precompute,
    )


def logged(trainer, name):
    return [line[name] for line in trainer.state.log_history if name in line]


@pytest.mark.parametrize("adapter", [None, lora()], ids=["full", "lora"])
def test_five_images_loss_falls_and_margins_rise(tmp_path, adapter):
    held_out = colour_pairs(8, seed=9, instructions=SHORT)
    trainer = make(
        tmp_path,
        adapter=adapter,
        held_out=held_out,
        beta=0.5,
        max_steps=12 if adapter is None else 16,
        learning_rate=3e-3 if adapter is None else 3e-2,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=1e-4)  # the model is its own reference
    assert logged(trainer, "loss")[-1] < 0.5
    assert logged(trainer, "rewards/margins")[-1] > 0.5
    assert after["eval_rewards/accuracies"] == 1.0 and after["eval_loss"] < 0.5
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in line for line in lines) == trainer.state.global_step


@pytest.mark.parametrize("adapter", [None, lora()], ids=["full", "lora"])
def test_the_reference_computed_once_is_the_one_computed_in_every_step(tmp_path, adapter):
    """And both are what plain log-softmax over the logits of the untouched model gives."""
    rows = colour_pairs(6, instructions=SHORT)
    once = make(tmp_path / "a", adapter=adapter, rows=rows, max_steps=4)
    live = make(tmp_path / "b", adapter=adapter, rows=rows, max_steps=4, precompute=False)
    assert once.ref_model is None and once.precompute_ref_logps
    assert (live.ref_model is None) == (adapter is not None)
    plain = tiny_model().eval()
    for start in (0, 3):
        batch = PairCollator(processor=tiny_processor()).torch_call(
            [dict(row) for row in rows.select(range(start, start + 3))]
        )
        mask = batch.pop("completion_mask")[:, 1:]
        with torch.no_grad():
            scores = torch.log_softmax(plain(**batch).logits[:, :-1], dim=-1)
        own = (scores.gather(2, batch["input_ids"][:, 1:, None])[..., 0] * mask).sum(1)
        stored = once.train_dataset.select(range(start, start + 3))
        for name, expected in zip(("ref_chosen_logps", "ref_rejected_logps"), own.chunk(2)):
            assert stored[name] == pytest.approx(expected.tolist(), abs=1e-4)
    once.train()
    live.train()
    for name in ("loss", "rewards/margins", "logps/chosen"):
        assert logged(once, name) == pytest.approx(logged(live, name), abs=1e-4)


def test_a_row_keeps_its_own_reference_in_any_batch(tmp_path):
    rows = colour_pairs(5, instructions=SHORT)
    trainer = make(tmp_path, rows=rows, precompute=True)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["ref_chosen_logps"].shape == (4,)
    stored = {round(value, 3) for value in trainer.train_dataset["ref_chosen_logps"]}
    assert {round(value, 3) for value in batch["ref_chosen_logps"].tolist()} <= stored


def test_what_should_move_moves(tmp_path):
    adapted = make(tmp_path / "lora", adapter=lora(), max_steps=2)
    before = {name: parameter.detach().clone() for name, parameter in adapted.model.named_parameters()}
    adapted.train()
    moved = {name for name, parameter in adapted.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved and all("lora_" in name and "text_model" in name for name in moved)
    assert {name for name in before if "lora_B" in name} <= moved
    whole = make(tmp_path / "full", max_steps=2)
    before = {name: parameter.detach().clone() for name, parameter in whole.model.named_parameters()}
    whole.train()
    still = [name for name, parameter in whole.model.named_parameters() if torch.equal(parameter, before[name])]
    assert still == [], "in full training every weight moves"


@pytest.mark.parametrize("loss", list(LOSSES))
def test_losses_by_name(tmp_path, loss):
    trainer = make(tmp_path, loss=loss, max_steps=1, rows=colour_pairs(4, instructions=SHORT))
    trainer.train()
    found, beta = logged(trainer, "loss")[0], trainer.beta
    chosen = -logged(trainer, "logps/chosen")[0]
    tokens = PairCollator(processor=tiny_processor()).torch_call([dict(colour_pairs(1, instructions=SHORT)[0])])
    length = int(tokens["completion_mask"][0].sum())
    expected = {
        "sigmoid": math.log(2),
        "robust": math.log(2),  # (1 − ε)·ln 2 − ε·ln 2, over 1 − 2ε
        "ipo": (1 / (2 * beta)) ** 2,
        "sigmoid+sft": math.log(2) + chosen / length,
    }[loss]
    assert found == pytest.approx(expected, rel=2e-3)


def test_an_adapter_is_saved_reloaded_and_generates(tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    trainer = make(tmp_path, adapter=lora(), max_steps=3, learning_rate=3e-2)
    trainer.train()
    trainer.model.save_pretrained(tmp_path / "adapter")
    trainer.processing_class.save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(tiny_folder()), tmp_path / "adapter")
    processor = AutoProcessor.from_pretrained(tmp_path / "adapter")
    row = colour_pairs(1, instructions=SHORT)[0]
    batch = PairCollator(processor=processor).torch_call([dict(row)])
    batch.pop("completion_mask")
    with torch.no_grad():
        trained, loaded = (which.eval()(**batch).logits for which in (trainer.model, model))
        base = tiny_model().eval()(**batch).logits
    assert torch.allclose(trained, loaded, atol=1e-5) and not torch.allclose(base, loaded, atol=1e-3)
    prompt = processor.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[prompt], images=[row["images"]], return_tensors="pt")
    made = model.generate(**inputs, max_new_tokens=4, do_sample=True, num_return_sequences=3)
    assert made.shape[0] == 3 and made.shape[1] > inputs["input_ids"].shape[1]


def test_columns_of_provenance_do_no_harm_and_rows_may_hold_fewer_images(tmp_path):
    from datasets import concatenate_datasets

    rows = concatenate_datasets(
        [colour_pairs(2, shown=5, instructions=SHORT), colour_pairs(2, shown=2, instructions=SHORT)]
    )
    assert "rank_before" in rows.column_names
    trainer = make(tmp_path, rows=rows, max_steps=1)
    assert "rank_before" not in trainer.train_dataset.column_names
    assert math.isfinite(trainer.train().training_loss)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    rows = colour_pairs(8, instructions=SHORT)
    whole = make(tmp_path / "whole", adapter=lora(), rows=rows, max_steps=6)
    whole.train()
    first = make(tmp_path / "cut", adapter=lora(), rows=rows, max_steps=6, save_strategy="steps", save_steps=3)

    class Stop(Exception):
        pass

    from transformers import TrainerCallback

    class StopAt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                raise Stop

    first.add_callback(StopAt())
    with pytest.raises(Stop):
        first.train()
    again = make(tmp_path / "cut", adapter=lora(), rows=rows, max_steps=6, save_strategy="steps", save_steps=3)
    again.train(resume_from_checkpoint=True)
    for (name, one), (_, other) in zip(whole.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    # another loss, or other pairs, is another run
    with pytest.raises(CheckpointError, match="was written with loss="):
        make(tmp_path / "cut", adapter=lora(), rows=rows, loss="ipo").train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match="was written with train_data="):
        make(tmp_path / "cut", adapter=lora(), rows=colour_pairs(8, seed=5, instructions=SHORT)).train(
            resume_from_checkpoint=True
        )
    weights = next((tmp_path / "cut" / "checkpoint-6").glob("adapter_model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is not what was written"):
        make(tmp_path / "cut", adapter=lora(), rows=rows).train(
            resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-6")
        )


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    model = tiny_model()
    trainer = make(tmp_path, model=model, precompute=False)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"the loss is nan at step 1\. Training stopped; no checkpoint"):
        trainer.train()


def test_guards_run_before_anything_is_trained(tmp_path):
    model = tiny_model()
    with pytest.raises(DataError, match="training pairs: row 0: field 'images'"):
        make(tmp_path, rows=colour_pairs(2, shown=2).map(lambda row: {"images": row["images"][:1]}))
    with pytest.raises(DataError, match="held-out pairs: no rows"):
        make(tmp_path, held_out=colour_pairs(2).select([]))
    with pytest.raises(PreferenceTrainingError, match="max_length=64"):
        make(tmp_path, max_length=64)
    with pytest.raises(PreferenceTrainingError, match="lm_head"):
        make(tmp_path, adapter=lora(target_modules=["q_proj", "lm_head"]))
    with pytest.raises(PreferenceTrainingError, match="no processor of images"):
        PreferenceTrainer(
            model,
            preference_arguments(str(tmp_path), use_cpu=True),
            train_dataset=colour_pairs(2),
            processing_class=tiny_processor().tokenizer,
        )
    narrow = copy.deepcopy(model)
    narrow.config.text_config.max_position_embeddings = 40
    with pytest.raises(PreferenceTrainingError, match="the model takes 40"):
        make(tmp_path, model=narrow)
