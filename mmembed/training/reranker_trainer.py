"""sentence-transformers' trainer of rerankers with whole checkpoints, order by seed and epoch, and no silent failure."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.base.training_args import BatchSamplers
from sentence_transformers.cross_encoder import CrossEncoderTrainer
from transformers import TrainerCallback

from mmembed.data.keys import permutation
from mmembed.distributed import check_launch
from mmembed.training.callbacks import MetricsLog
from mmembed.training.checkpoints import (
    newest_checkpoint,
    resumable_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)
from mmembed.training.trainer import NonFiniteError

logger = logging.getLogger(__name__)


class RerankerTrainer(CrossEncoderTrainer):
    """`CrossEncoderTrainer` that stops at a loss, gradient or weight that is no number, and resumes exactly.

    A checkpoint has a manifest of hashes, written last; on resuming the newest whole one is taken. The order of the rows is
    a function of seed and epoch. What the run logs stands in `metrics.jsonl`.

    Args:
        *args: As of `CrossEncoderTrainer`.
        data_sha256: Fingerprint of the training rows; a run is resumed with the same ones alone.
        **kwargs: As of `CrossEncoderTrainer`.

    Example:
        >>> trainer = RerankerTrainer(model, args, rows, loss=LambdaLoss(model))  # doctest: +SKIP
        >>> trainer.train(resume_from_checkpoint=True)  # doctest: +SKIP
    """

    def __init__(self, *args: Any, data_sha256: str | None = None, **kwargs: Any) -> None:
        self._data_sha256 = data_sha256
        self._samplers: list[Any] = []
        super().__init__(*args, **kwargs)
        check_launch(
            device=self.args.device,
            world=self.args.world_size,
            num_visible_gpus=self.args.n_gpu,
            fsdp=bool(self.args.fsdp),
        )
        self.model_accepts_loss_kwargs = False  # else the loss is not divided by the accumulation steps
        self.add_callback(MetricsLog(Path(str(self.args.output_dir)) / "metrics.jsonl"))
        self.add_callback(_TellEpoch(self._samplers))

    # --- batches ------------------------------------------------------------------------------------------------

    def get_batch_sampler(self, dataset: Any, batch_size: int, drop_last: bool, **kwargs: Any) -> Any:
        seed = kwargs.get("seed", 0)
        if self.args.batch_sampler == BatchSamplers.BATCH_SAMPLER:
            sampler: Any = _SeededBatches(dataset, batch_size, drop_last, seed=seed)
            sampler.world_size = self.args.world_size
        else:
            sampler = super().get_batch_sampler(dataset, batch_size, drop_last, **kwargs)
        self._samplers.append(sampler)
        return sampler

    # --- the step -----------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        if model.training and torch.is_grad_enabled() and not bool(torch.isfinite(loss).all()):
            raise NonFiniteError(self._non_finite(f"the loss is {loss.item()}"))
        return result

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        value = float(norm) if norm is not None else 0.0
        # under fp16 the scaler skips such steps itself
        if not torch.isfinite(torch.tensor(value)) and not self.args.fp16:
            raise NonFiniteError(self._non_finite(f"the gradient's norm is {value}"))
        return norm

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
            f"{what} at step {self.state.global_step + 1}. Training stopped; {where}. Lower the learning rate, or look at "
            "the labels."
        )

    # --- checkpoints --------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; `resume_from_checkpoint=True` goes on from the newest whole checkpoint, if there is one.

        Args:
            resume_from_checkpoint: A checkpoint folder, True for the newest whole one, None to start anew.
            **kwargs: Further arguments of `transformers.Trainer.train`.

        Returns:
            transformers' `TrainOutput`.

        Raises:
            CheckpointError: If the named checkpoint is damaged or of another run, or one cannot be written.
            NonFiniteError: If a loss, a gradient or a weight is not finite.
        """
        checkpoint = resumable_checkpoint(
            resume_from_checkpoint,
            str(self.args.output_dir),
            self._run_identity,
            sharded=self.is_deepspeed_enabled,
        )
        result = super().train(resume_from_checkpoint=checkpoint, **kwargs)
        self._check_weights()
        return result

    def _run_identity(self) -> dict[str, Any]:
        kind = self.args.batch_sampler
        return {
            "world_size": self.args.world_size,
            "train_batch_size": self.args.train_batch_size,
            "gradient_accumulation_steps": self.args.gradient_accumulation_steps,
            "batch_sampler": kind.value
            if isinstance(kind, BatchSamplers)
            else getattr(kind, "__qualname__", repr(kind)),
            "seed": self.args.seed if self.args.data_seed is None else self.args.data_seed,
            "loss": type(self.loss).__name__,
            "train_data_sha256": self._data_sha256,
        }

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._check_weights()
        write = functools.partial(super()._save_checkpoint, model, trial)
        write_checkpoint(self, write, self._get_output_dir(trial=trial), self._run_identity())

    def _load_best_model(self) -> None:
        verify_checkpoint(str(self.state.best_model_checkpoint))
        super()._load_best_model()

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """The card is written from the run's own figures, not from rows of the data."""


class _SeededBatches(DefaultBatchSampler):
    """Rows in an order that seed and epoch give, so many at a time, and as many batches on each process.

    Without the last, a process would wait for ever for others that have had their rows; which rows are left out then is
    another matter in each epoch.
    """

    world_size = 1

    def __len__(self) -> int:
        return super().__len__() // self.world_size * self.world_size

    def __iter__(self) -> Any:
        order = permutation(len(self.sampler), seed=self.seed, epoch=self.epoch).tolist()  # type: ignore[arg-type]
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size]


class _TellEpoch(TrainerCallback):
    """Tells the samplers which epoch begins; the trainer's own word does not reach them behind accelerate's wrappers."""

    def __init__(self, samplers: list[Any]) -> None:
        self.samplers = samplers

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for sampler in self.samplers:
            sampler.set_epoch(int((state.epoch or 0.0) + 1e-6))
