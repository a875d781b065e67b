"""Fine-tuning on chosen questions makes them likely, and the reference of what follows is the fine-tuned model."""

from __future__ import annotations

import math

import pytest
from peft import LoraConfig

from mmembed.data.schema import DataError
from mmembed.interactive.pair_accuracy import pair_log_probabilities
from mmembed.interactive.preference_checks import PreferenceTrainingError
from mmembed.interactive.preference_trainer import LANGUAGE_MODEL, PreferenceTrainer, preference_arguments
from mmembed.interactive.warm_start import chosen_rows, warm_start
from tests.interactive.tiny_questioner import colour_pairs, tiny_model, tiny_processor

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
QUICK = {"per_device_train_batch_size": 4, "max_steps": 4, "learning_rate": 3e-3, "disable_tqdm": True, "use_cpu": True}


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=4, target_modules=LANGUAGE_MODEL)], ids=["full", "lora"])
def test_the_chosen_questions_become_likely_and_are_then_the_reference(tmp_path, adapter):
    rows, processor = colour_pairs(4, instructions="Ask."), tiny_processor()
    before = pair_log_probabilities(tiny_model(), processor, rows)
    rate = {"learning_rate": 3e-2} if adapter is not None else {}
    model = warm_start(
        tiny_model(), processor, rows, output_dir=str(tmp_path / "warm"), adapter=adapter, **{**QUICK, **rate}
    )
    warm = pair_log_probabilities(model, processor, rows)
    assert (warm.chosen > before.chosen + 0.5).all()
    trainer = PreferenceTrainer(
        model,
        preference_arguments(str(tmp_path / "dpo"), per_device_train_batch_size=4, max_steps=1, logging_steps=1, save_strategy="no",
                             use_cpu=True, disable_tqdm=True),
        train_dataset=rows, processing_class=processor,
    )  # fmt: skip
    stored = trainer.train_dataset
    assert stored["ref_chosen_logps"] == pytest.approx(warm.chosen.tolist(), abs=1e-3)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert trainer.ref_model is None


def test_each_chosen_question_once_a_prompt():
    rows = colour_pairs(4)
    from datasets import concatenate_datasets

    twice = concatenate_datasets([rows, rows.select([0])])
    found = chosen_rows(twice)
    assert found.column_names == ["prompt", "completion", "images"] and len(found) == 4


def test_what_would_teach_nothing_is_refused(tmp_path):
    rows, processor = colour_pairs(2), tiny_processor()
    with pytest.raises(PreferenceTrainingError, match="max_length=64 would cut"):
        warm_start(tiny_model(), processor, rows, output_dir=str(tmp_path), max_length=64)
    with pytest.raises(PreferenceTrainingError, match="no processor of images"):
        warm_start(tiny_model(), processor.tokenizer, rows, output_dir=str(tmp_path))
    with pytest.raises(PreferenceTrainingError, match="lm_head"):
        warm_start(
            tiny_model(), processor, rows, output_dir=str(tmp_path), adapter=LoraConfig(target_modules=["lm_head"])
        )
    with pytest.raises(DataError, match="no rows"):
        warm_start(tiny_model(), processor, rows.select([]), output_dir=str(tmp_path))
