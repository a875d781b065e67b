"""The arguments of training: sentence-transformers', and what mmembed adds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from sentence_transformers import SentenceTransformerTrainingArguments
from sentence_transformers.base.training_args import BatchSamplers


@dataclass
class EmbeddingTrainingArguments(SentenceTransformerTrainingArguments):
    """`SentenceTransformerTrainingArguments` plus the loss by name, masks, freezing, layer-wise rates and LoRA.

    Every argument of transformers' and sentence-transformers' training arguments is here too. These defaults differ:
    `batch_sampler` is "no_duplicates" (by hash of group, text and encoded image, decoding nothing),
    `logging_nan_inf_filter` is False (a NaN stops the run), `ddp_find_unused_parameters` is False and
    `ddp_timeout` 600 s.

    Args:
        loss: Name of the loss, see `mmembed.losses.building.LOSSES`.
        loss_arguments: Its arguments as sentence-transformers names them; `temperature` and `learnable_temperature` too.
        mask_false_negatives: Rows of one group, equal text or equal image bytes are no negatives of each other.
        matryoshka_dims: Leading dimensions that are trained too.
        matryoshka_weights: One weight a dimension.
        patch_mask_ratio: Share of an image's patches that are left out at random in training, in [0, 1), see
            `mmembed.training.patch_masking`.
        freeze: Regular expressions of parameter names that are not trained; "text" and "image" name a whole tower.
        layer_learning_rate_decay: Factor by which each deeper layer of a tower learns slower, in (0, 1].
        lora: Arguments of peft's LoraConfig; None trains the weights themselves.
        early_stopping_patience: Evaluations without a better best metric after which training stops.
        dataloader_timeout: Seconds after which a stalled worker process ends the run.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> args = EmbeddingTrainingArguments(output_dir="out", loss_arguments={"temperature": 0.05}, use_cpu=True)
        >>> args.batch_sampler.value, args.logging_nan_inf_filter
        ('no_duplicates', False)
    """

    loss: str = field(
        default="MultipleNegativesRankingLoss", metadata={"help": "Loss by sentence-transformers' class name."}
    )
    loss_arguments: dict[str, Any] | str | None = field(
        default_factory=dict, metadata={"help": "Arguments of the loss, e.g. {temperature: 0.05}."}
    )
    mask_false_negatives: bool = field(
        default=True, metadata={"help": "Mask negatives of the same group, text or image bytes."}
    )
    matryoshka_dims: list[int] | None = field(
        default=None, metadata={"help": "Leading dimensions that are trained too (MatryoshkaLoss)."}
    )
    matryoshka_weights: list[float] | None = field(
        default=None, metadata={"help": "One weight a Matryoshka dimension."}
    )
    patch_mask_ratio: float = field(
        default=0.0, metadata={"help": "Share of an image's patches left out in training (FLIP), in [0, 1)."}
    )
    freeze: list[str] | None = field(
        default=None, metadata={"help": "Parameters not trained: 'text', 'image', or regular expressions of names."}
    )
    layer_learning_rate_decay: float | None = field(
        default=None, metadata={"help": "Each deeper layer of a tower learns slower by this factor, in (0, 1]."}
    )
    lora: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of peft's LoraConfig, e.g. {r: 8, target_modules: all-linear}."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without improvement after which training stops."}
    )
    dataloader_timeout: int = field(
        default=300, metadata={"help": "Seconds after which a stalled worker process ends the run."}
    )
    batch_sampler: Any = field(
        default=BatchSamplers.NO_DUPLICATES,
        metadata={
            "help": "no_duplicates (by hash, decodes nothing), group_by_label (rows of a group meet) or batch_sampler (plain)."
        },
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Must stay False: a NaN stops the run."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Every parameter takes part in every step, so none has to be searched for."}
    )
    ddp_timeout: int = field(default=600, metadata={"help": "Seconds a rank waits for the others."})

    _dict_fields_of_ours = ("loss_arguments", "lora")

    def __post_init__(self) -> None:
        for name in self._dict_fields_of_ours:
            if isinstance(value := getattr(self, name), str):
                try:
                    setattr(self, name, json.loads(value))
                except json.JSONDecodeError as error:
                    raise ValueError(f"{name}={value!r} is no JSON object: {error}") from None
            if not isinstance(getattr(self, name), (dict, NoneType)):
                raise ValueError(f"{name}={getattr(self, name)!r} is no JSON object, such as {{}}.")
        self.loss_arguments = self.loss_arguments or {}
        decay = self.layer_learning_rate_decay
        if decay is not None and not 0 < decay <= 1:
            raise ValueError(f"layer_learning_rate_decay={decay}; it must lie in (0, 1].")
        if not 0 <= self.patch_mask_ratio < 1:
            raise ValueError(f"patch_mask_ratio={self.patch_mask_ratio}; it must lie in [0, 1).")
        if self.matryoshka_weights is not None and self.matryoshka_dims is None:
            raise ValueError("matryoshka_weights without matryoshka_dims weigh nothing; give the dimensions too.")
        if self.logging_nan_inf_filter:
            raise ValueError("logging_nan_inf_filter=True would log a NaN loss as 0; leave it False.")
        if self.push_to_hub:
            raise ValueError(
                "push_to_hub would upload these arguments as a pickle; use mmembed.push_to_hub afterwards."
            )
        super().__post_init__()
        if self.early_stopping_patience is not None:
            if self.early_stopping_patience < 1:
                raise ValueError(f"early_stopping_patience={self.early_stopping_patience}; it must be at least 1.")
            if self.metric_for_best_model is None or self.eval_strategy == "no":
                raise ValueError(
                    "early_stopping_patience needs metric_for_best_model (such as validation_mean_recall) and an "
                    "eval_strategy other than 'no'."
                )
        allowed = (
            BatchSamplers.NO_DUPLICATES,
            BatchSamplers.NO_DUPLICATES_HASHED,
            BatchSamplers.GROUP_BY_LABEL,
            BatchSamplers.BATCH_SAMPLER,
        )
        if self.batch_sampler not in allowed:
            raise ValueError(
                f"batch_sampler={self.batch_sampler}; EmbeddingTrainer plans its batches from hashes and knows "
                f"{', '.join(repr(b.value) for b in allowed)}."
            )
