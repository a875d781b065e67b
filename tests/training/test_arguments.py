"""Defaults that differ from upstream's, and values that cannot be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmembed.training.arguments import EmbeddingTrainingArguments


def arguments(tmp_path: Path, **settings: Any) -> EmbeddingTrainingArguments:
    return EmbeddingTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings)


def test_defaults_stop_at_nan_and_at_stalled_workers(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    assert args.logging_nan_inf_filter is False and args.dataloader_timeout == 300 and args.ddp_timeout == 600
    assert args.ddp_find_unused_parameters is False and args.mask_false_negatives is True
    assert args.loss == "MultipleNegativesRankingLoss" and args.loss_arguments == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer_learning_rate_decay": 0.0}, r"layer_learning_rate_decay=0.0; it must lie in \(0, 1\]"),
        ({"layer_learning_rate_decay": 1.5}, "layer_learning_rate_decay=1.5"),
        ({"logging_nan_inf_filter": True}, "would log a NaN loss as 0"),
        ({"push_to_hub": True}, "as a pickle"),
        ({"batch_sampler": "no_duplicates_hashd"}, "no_duplicates_hashd"),
        ({"loss_arguments": "{temperature: 1}"}, "loss_arguments=.* is no JSON object"),
        ({"loss_arguments": "[1]"}, "loss_arguments=.* is no JSON object"),
        ({"lora": "7"}, "lora=.* is no JSON object"),
        ({"early_stopping_patience": 2}, "needs metric_for_best_model"),
        ({"early_stopping_patience": 0, "metric_for_best_model": "loss"}, "at least 1"),
        ({"matryoshka_weights": [1.0]}, "matryoshka_weights.*matryoshka_dims"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **settings)


def test_dictionaries_come_as_json_too(tmp_path: Path) -> None:
    args = arguments(tmp_path, loss_arguments='{"temperature": 0.1}', lora='{"r": 2}')
    assert args.loss_arguments == {"temperature": 0.1} and args.lora == {"r": 2}
    assert arguments(tmp_path, loss_arguments=None).loss_arguments == {}


@pytest.mark.parametrize("name", ["no_duplicates", "no_duplicates_hashed", "batch_sampler"])
def test_batch_samplers_by_name(tmp_path: Path, name: str) -> None:
    assert arguments(tmp_path, batch_sampler=name).batch_sampler.value == name
