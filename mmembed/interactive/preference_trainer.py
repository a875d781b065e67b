"""TRL's trainer of preferences for questions about images: checked first, its reference computed once, its checkpoints whole."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset

from mmembed.distributed import check_launch
from mmembed.interactive.preference_checks import (
    COLUMNS,
    check_preference_arguments,
    check_preference_batch,
    check_preference_processor,
    check_preference_rows,
    check_target_modules,
    probe_rows,
)
from mmembed.interactive.preference_rows import plain_rows, rows_sha256
from mmembed.training.callbacks import MetricsLog
from mmembed.training.checkpoints import (
    newest_checkpoint,
    resumable_checkpoint,
    write_checkpoint,
)
from mmembed.training.trainer import NonFiniteError

try:
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference
    from trl.trainer.utils import hash_module
except ImportError:
    raise ImportError('preference training needs TRL: pip install "mmembed[dpo]"') from None

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, ProcessorMixin
    from transformers.trainer_utils import TrainOutput

#: Losses by name: TRL's `loss_type` and, beside it, what else the name means.
LOSSES: dict[str, dict[str, Any]] = {
    # Rafailov et al. 2023, https://huggingface.co/papers/2305.18290
    "sigmoid": {"loss_type": ["sigmoid"]},
    # Chowdhury et al. 2024, https://huggingface.co/papers/2403.00409: a share of the pairs is the wrong way round
    "robust": {"loss_type": ["robust"], "label_smoothing": 0.1},
    # Azar et al. 2023, https://huggingface.co/papers/2310.12036
    "ipo": {"loss_type": ["ipo"]},
    # Pang et al. 2024, https://huggingface.co/papers/2404.19733: and the chosen question's own likelihood
    "sigmoid+sft": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]},
}
#: The query and value projections of the language model alone; plain names would match the vision tower's as well.
LANGUAGE_MODEL = r".*(text_model|language_model).*\.(q_proj|v_proj)"
_REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")


class PairCollator(DataCollatorForVisionPreference):
    """TRL's collator of pairs with images, which also hands on the reference's log-probabilities where rows have them."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Rows → tensors; chosen questions first, then rejected ones.

        Args:
            examples: rows of pairs.

        Returns:
            What TRL's collator makes, and `ref_chosen_logps` and `ref_rejected_logps`, float32 (pairs,).
        """
        kept = {name: [row[name] for row in examples] for name in _REFERENCE if name in examples[0]}
        batch = super().torch_call([{name: row[name] for name in COLUMNS} for row in examples])
        for name, values in kept.items():
            batch[name] = torch.tensor(values, dtype=torch.float32)
        return batch


def preference_arguments(output_dir: str, *, loss: str = "sigmoid", **given: Any) -> DPOConfig:
    """TRL's `DPOConfig` with what pairs of questions about images need.

    Args:
        output_dir: folder of the run.
        loss: one of `LOSSES`.
        **given: further arguments of `DPOConfig`; they win.

    Returns:
        The arguments: nothing is cut (`max_length`), and without an accelerator a CPU is used in float32.

    Raises:
        ValueError: a loss that has no name here, or what `DPOConfig` refuses.

    Example:
        >>> args = preference_arguments("runs/dpo", loss="sigmoid+sft", beta=0.2)
        >>> args.loss_type, args.loss_weights, args.beta, args.max_length
        (['sigmoid', 'sft'], [1.0, 1.0], 0.2, None)
    """
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}; the losses are {', '.join(LOSSES)}")
    on_cpu = bool(given.get("use_cpu", not torch.cuda.is_available()))
    fitting: dict[str, Any] = {"max_length": None, "report_to": [], "use_cpu": on_cpu}
    if on_cpu:
        fitting |= {"bf16": False, "gradient_checkpointing": False}  # memory is no matter there, time is
    return DPOConfig(output_dir, **{**fitting, **LOSSES[loss], **given})


class PreferenceTrainer(DPOTrainer):
    """Trains a vision-language model to prefer the better of two questions.

    Before the first step the rows, the processor, the arguments, the adapter's place and a batch of the longest rows are
    checked (`preference_checks`). The reference is what the model is when the trainer is made: below a new adapter the
    model itself, of a model that has an adapter a frozen copy of it, in full training a copy of all. TRL computes its
    log-probabilities anew in every step, and refuses to compute them once for images; here they are computed once over all
    rows, with the collator's own batches, and the copy is then let go.

    Args:
        model: a transformers model of images and texts, or a `PeftModel` whose adapter goes on learning.
        args: from `preference_arguments`.
        train_dataset: pairs, see `preference_rows`; columns of provenance are left out.
        processing_class: the model's processor.
        eval_dataset: held-out pairs, measured as the arguments say.
        adapter: of a low-rank adapter; None trains every weight.
        precompute_reference: compute the reference's log-probabilities once; else in every step.
        callbacks: as of `transformers.Trainer`.

    Raises:
        DataError: rows that are no such pairs.
        PreferenceTrainingError: what would fail or train nothing.

    Example:
        >>> trainer = PreferenceTrainer(model, args, train_dataset=pairs, processing_class=processor)  # doctest: +SKIP
        >>> trainer.train(resume_from_checkpoint=True)  # doctest: +SKIP
    """

    args: DPOConfig
    model: Any
    _signature_columns: Any

    def __init__(
        self,
        model: PreTrainedModel,
        args: DPOConfig,
        *,
        train_dataset: Dataset,
        processing_class: ProcessorMixin,
        eval_dataset: Dataset | None = None,
        adapter: LoraConfig | None = None,
        precompute_reference: bool = True,
        callbacks: Sequence[Any] = (),
    ) -> None:
        check_preference_processor(processing_class)
        check_preference_arguments(args, precompute_reference=precompute_reference)
        check_preference_rows(train_dataset, name="training pairs")
        if eval_dataset is not None:
            check_preference_rows(eval_dataset, name="held-out pairs")
            eval_dataset = plain_rows(eval_dataset, processing_class)
        if adapter is not None:
            check_target_modules(model, adapter.target_modules)
        train_dataset = plain_rows(train_dataset, processing_class)
        collator = PairCollator(processor=processing_class, max_length=args.max_length)
        check_preference_batch(collator([dict(row) for row in probe_rows(train_dataset)]), model)
        adapted = adapter is not None or is_peft_model(model)
        super().__init__(
            model,
            ref_model=None if adapted else copy.deepcopy(model),
            args=args,
            data_collator=collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=list(callbacks),
            peft_config=adapter,
        )
        check_launch(
            device=self.args.device,
            world=self.args.world_size,
            num_visible_gpus=self.args.n_gpu,
            fsdp=bool(self.args.fsdp),
        )
        self._data_sha256 = rows_sha256(self.train_dataset)
        if precompute_reference:
            self._precompute()
        self.add_callback(MetricsLog(Path(str(self.args.output_dir)) / "metrics.jsonl"))

    # --- the reference ------------------------------------------------------------------------------------------

    def _precompute(self) -> None:
        self._precompute_model_hash = hash_module(self.model if self.ref_model is None else self.ref_model)
        self.train_dataset = self._precompute_ref_logps(
            self.train_dataset, "train", self.args.precompute_ref_batch_size or self.args.per_device_train_batch_size
        )
        if self.eval_dataset is not None:
            self.eval_dataset = self._precompute_ref_logps(
                self.eval_dataset, "eval", self.args.precompute_ref_batch_size or self.args.per_device_eval_batch_size
            )
        self.precompute_ref_logps = True  # from here on TRL takes the reference from the batch
        self.ref_model = None

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, *_REFERENCE]))

    # --- the step -----------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        if self.model.training and torch.is_grad_enabled() and not bool(torch.isfinite(loss).all()):
            raise NonFiniteError(self._non_finite(f"the loss is {loss.item()}"))
        return result

    def _check_weights(self) -> None:
        bad = [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and not bool(torch.isfinite(parameter).all())
        ]
        if bad:
            raise NonFiniteError(self._non_finite(f"{len(bad)} weights are not finite, first {bad[0]},"))

    def _non_finite(self, what: str) -> str:
        last, _ = newest_checkpoint(str(self.args.output_dir))
        where = f"the last whole checkpoint is {last}" if last else "no checkpoint was written yet"
        return (
            f"{what} at step {self.state.global_step + 1}. Training stopped; {where}. Lower the learning rate or beta."
        )

    # --- checkpoints --------------------------------------------------------------------------------------------

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; `resume_from_checkpoint=True` goes on from the newest whole checkpoint, if there is one.

        Args:
            resume_from_checkpoint: a checkpoint folder, True for the newest whole one, None to start anew.
            trial, ignore_keys_for_eval: as of `transformers.Trainer.train`.

        Returns:
            transformers' `TrainOutput`.

        Raises:
            CheckpointError: the named checkpoint is damaged or of another run, or one cannot be written.
            NonFiniteError: a loss or a weight is not finite.
        """
        checkpoint = resumable_checkpoint(
            resume_from_checkpoint,
            str(self.args.output_dir),
            self._run_identity,
            sharded=self.is_deepspeed_enabled,
        )
        result = super().train(checkpoint, trial, ignore_keys_for_eval)
        self._check_weights()
        return result

    def _run_identity(self) -> dict[str, Any]:
        return {
            "world_size": self.args.world_size,
            "train_batch_size": self.args.train_batch_size,
            "gradient_accumulation_steps": self.args.gradient_accumulation_steps,
            "seed": self.args.seed if self.args.data_seed is None else self.args.data_seed,
            "loss": [*self.loss_types, *map(float, self.loss_weights), float(self.beta), float(self.label_smoothing)],
            "train_data": self._data_sha256,
        }

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._check_weights()
        write = functools.partial(super()._save_checkpoint, model, trial)
        write_checkpoint(self, write, self._get_output_dir(trial=trial), self._run_identity())

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card is written from the run's own figures."""
