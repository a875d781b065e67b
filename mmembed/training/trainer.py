"""The trainer: sentence-transformers' own, fed from ITEMS and PAIRS, with masks, whole checkpoints and no silent failure."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.base.training_args import BatchSamplers
from torch import nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, TrainerCallback

from mmembed.data.augment import Augmentation
from mmembed.data.collators import ImageFeatures, PairCollator, TextFeatures
from mmembed.data.samplers import DistinctBatchSampler
from mmembed.data.training_pairs import TrainingPairs
from mmembed.distributed import check_launch, check_wrapped
from mmembed.images import ImageReader
from mmembed.losses.building import build_loss, loss_row, owned_parameters
from mmembed.models.multimodal_transformer import adopt
from mmembed.training.arguments import EmbeddingTrainingArguments
from mmembed.training.callbacks import AverageOwnedGradients, EpochClock, MetricsLog
from mmembed.training.checkpoints import (
    newest_checkpoint,
    read_tensors,
    resumable_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)
from mmembed.training.lora import add_lora
from mmembed.training.optimizer import decay_parameter_names, freeze, frozen_modules, layer_learning_rates
from mmembed.training.patch_masking import mask_patches

logger = logging.getLogger(__name__)

_LOSS_PARAMETERS = "loss_parameters.safetensors"
_ADAPTERS = "adapters.safetensors"


class NonFiniteError(RuntimeError):
    """A loss or a gradient was NaN or infinite; the weights before that step are the last good ones."""


class EmbeddingTrainer(SentenceTransformerTrainer):
    """`SentenceTransformerTrainer` over ITEMS and PAIRS of texts, images and both.

    Args:
        model: Any `SentenceTransformer`; its first module becomes mmembed's, which reads mixed rows.
        args: The training arguments; they name the loss unless `loss` is given.
        train_data: What to train on.
        eval_data: Pairs whose loss is reported at each evaluation.
        loss: A loss module or a function of the model, instead of `args.loss`.
        evaluator: Evaluators run at each evaluation, e.g. `mmembed.evaluation.retrieval_evaluator.RetrievalEvaluator`.
        reader: Reads the items' images.
        augmentation: Applied to training images.
        image_features: Stored activations of a frozen image tower, instead of pixels.
        text_features: Stored features of a frozen text tower, which is not run then.
        guide: The guide of the GIST losses.
        callbacks: Further callbacks.
        **kwargs: Further arguments of `SentenceTransformerTrainer`.

    Raises:
        ValueError: If loss, data and arguments do not fit one another.
        LaunchError: If the processes were launched in a way that would not train together.

    Example:
        >>> import tempfile
        >>> from mmembed import demo_catalogue, EmbeddingTrainingArguments
        >>> from mmembed.models.loading import load_model  # doctest: +SKIP
        >>> trainer = EmbeddingTrainer(load_model("model"), args, TrainingPairs(items, items))  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    training_args_class = EmbeddingTrainingArguments

    def __init__(
        self,
        model: SentenceTransformer,
        args: EmbeddingTrainingArguments,
        train_data: TrainingPairs | None = None,
        eval_data: TrainingPairs | None = None,
        loss: nn.Module | Callable[[SentenceTransformer], nn.Module] | None = None,
        evaluator: Any = None,
        *,
        reader: ImageReader | None = None,
        augmentation: Augmentation | None = None,
        image_features: ImageFeatures | None = None,
        text_features: TextFeatures | None = None,
        guide: SentenceTransformer | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        check_launch(device=args.device, world=args.world_size, num_visible_gpus=args.n_gpu, fsdp=bool(args.fsdp))
        adopt(model)
        if guide is not None:
            adopt(guide)
        if args.lora is not None:
            add_lora(model, dict(args.lora))
        if args.freeze:
            freeze(model, args.freeze)
        _freeze_unused(model)
        if args.patch_mask_ratio:
            if image_features is not None:
                raise ValueError("patch_mask_ratio with stored image features: the patches are not seen any more.")
            mask_patches(model, args.patch_mask_ratio)
        self.train_data, self.eval_data = train_data, eval_data
        if loss is None:
            num_negatives = train_data.num_negatives if train_data is not None else 0
            loss = build_loss(
                args.loss,
                model,
                args.loss_arguments,
                mask_false_negatives=args.mask_false_negatives,
                num_negatives=num_negatives,
                guide=guide,
                matryoshka_dims=args.matryoshka_dims,
                matryoshka_weights=args.matryoshka_weights,
            )
            row = loss_row(args.loss)
            labels = row.labels if row.labels != "keys" or args.mask_false_negatives else None
        else:
            labels = "keys" if args.mask_false_negatives else None
        if labels == "score" and train_data is not None and not train_data.scored:
            raise ValueError(f"{args.loss} reads scores: build TrainingPairs with scored=True.")
        if labels == "scores" and train_data is not None and not train_data.teacher_scores:
            raise ValueError(f"{args.loss} reads a teacher's scores: build TrainingPairs with teacher_scores=True.")
        if args.layer_learning_rate_decay is not None:
            generated = layer_learning_rates(model, args.learning_rate, args.layer_learning_rate_decay)
            args.learning_rate_mapping = {**generated, **args.learning_rate_mapping}
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._step_rows: list[int] = []  # of the step that is being accumulated
        shared = {"reader": reader, "seed": _data_seed(args), "prompts": args.prompts, "labels": labels}
        shared |= {"image_features": image_features, "text_features": text_features}
        self._collators: dict[str, PairCollator] = {}
        if train_data is not None:
            self._collators["train"] = PairCollator(
                train_data, model.preprocess, epoch=self._epoch, augmentation=augmentation, **shared
            )
        if eval_data is not None:
            self._collators["eval"] = PairCollator(eval_data, model.preprocess, **shared)
        super().__init__(
            model=model,
            args=args,
            train_dataset=_row_numbers(train_data),
            eval_dataset=_row_numbers(eval_data),
            loss=loss,
            evaluator=evaluator,
            data_collator=self._collators.get("train") or self._collators.get("eval"),
            callbacks=callbacks,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False  # else the loss is not divided by the accumulation steps
        self._owned = owned_parameters(self.loss, self.model)
        if self._owned and self.is_deepspeed_enabled:
            raise ValueError(f"DeepSpeed does not step the loss's own parameters {list(self._owned)}; fix them.")
        self.add_callback(MetricsLog(Path(args.output_dir) / "metrics.jsonl"))
        self.add_callback(EpochClock(self._epoch))
        self.add_callback(AverageOwnedGradients(lambda: list(self._owned.values())))
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    # --- data ---------------------------------------------------------------------------------------------------

    def _build_dataloader(self, dataset: Any, batch_size: int, dataset_kind: str) -> DataLoader:
        kind = "train" if dataset_kind == "train" else "eval"
        data = self.train_data if kind == "train" else self.eval_data
        sampler = DistinctBatchSampler(
            data,
            batch_size=batch_size,
            world_size=self.args.world_size,
            seed=_data_seed(self.args),
            distinct=self.args.batch_sampler in (BatchSamplers.NO_DUPLICATES, BatchSamplers.NO_DUPLICATES_HASHED),
            together=self.args.batch_sampler == BatchSamplers.GROUP_BY_LABEL,
            epoch=self._epoch if kind == "train" else None,
        )
        workers = self.args.dataloader_num_workers
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=self._collators[kind],
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            timeout=self.args.dataloader_timeout if workers else 0,
        )

    def get_train_dataloader(self) -> DataLoader:
        if self.train_dataset is None:
            raise ValueError("EmbeddingTrainer.train needs train_data.")
        self.accelerator.even_batches = False
        loader = self._build_dataloader(self.train_dataset, self.args.train_batch_size, dataset_kind="train")
        # Not placed on the device here: pixels stay on the host until their mini-batch is encoded.
        self._train_dataloader = self.accelerator.prepare_data_loader(loader, device_placement=False)
        return self._train_dataloader

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        pixels = {name: value for name, value in inputs.items() if name.endswith("_pixel_values")}
        rest = super()._prepare_inputs({name: value for name, value in inputs.items() if name not in pixels})
        return {**rest, **pixels}

    # --- the step -----------------------------------------------------------------------------------------------

    @cached_property
    def _frozen(self) -> list[nn.Module]:
        return frozen_modules(self.model)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        rows = inputs.pop("rows", None)
        training = model.training and torch.is_grad_enabled()
        if training:
            check_wrapped(model, self.model, self.args.world_size)
            for module in self._frozen:
                module.eval()
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        if training and not bool(torch.isfinite(loss)):
            raise NonFiniteError(
                self._non_finite(f"the loss is {loss.item()}", rows.tolist() if rows is not None else [])
            )
        if training and rows is not None:
            self._step_rows = [*self._step_rows, *rows.tolist()]
        return result

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        rows, self._step_rows = self._step_rows, []
        value = float(norm) if norm is not None else 0.0
        # under fp16 the scaler skips such steps itself
        if not torch.isfinite(torch.tensor(value)) and not self.args.fp16:
            raise NonFiniteError(self._non_finite(f"the gradient's norm is {value}", rows))
        return norm

    def _non_finite(self, what: str, rows: list[int]) -> str:
        ids = [self.train_data.ids[row] for row in rows]
        shown = ", ".join(repr(id) for id in ids[:50]) + (f" and {len(ids) - 50} more" if len(ids) > 50 else "")
        last, _ = newest_checkpoint(self.args.output_dir)
        where = f"the last whole checkpoint is {last}" if last else "no checkpoint was written yet"
        return (
            f"{what} at step {self.state.global_step + bool(ids)}{f', on the batch of {shown}' if ids else ''}. "
            f"Training stopped; {where}. "
            "Lower the learning rate, raise the temperature, or look at these rows."
        )

    # --- the optimizer ------------------------------------------------------------------------------------------

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return decay_parameter_names(model)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """The card is written from the run's own figures (`mmembed.export.card`), not sampled from row numbers."""

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
            sharded=self.is_deepspeed_enabled or self.is_fsdp_enabled,
        )
        result = super().train(resume_from_checkpoint=checkpoint, **kwargs)
        self._check_weights()
        return result

    def leave_group(self) -> None:
        """Wait for the other processes and leave their group; what follows is for one process alone.

        The wrapper of the model goes first: taken down after its group, or with it at the end of the process, it may wait
        for ever or abort.
        """
        self.accelerator.wait_for_everyone()
        self.model_wrapped = self.model
        self.accelerator.free_memory()  # also collects garbage
        self.accelerator.end_training()

    def _run_identity(self) -> dict[str, Any]:
        return {
            "world_size": self.args.world_size,
            "train_batch_size": self.args.train_batch_size,
            "gradient_accumulation_steps": self.args.gradient_accumulation_steps,
            "batch_sampler": str(getattr(self.args.batch_sampler, "value", self.args.batch_sampler)),
            "seed": _data_seed(self.args),
            "train_data_sha256": self.train_data.fingerprint(),
        }

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._check_weights()
        write = functools.partial(super()._save_checkpoint, model, trial)
        write_checkpoint(self, write, self._get_output_dir(trial=trial), self._run_identity())

    def _check_weights(self) -> None:
        """A finite gradient can still take a weight beyond the largest float; such weights are not kept."""
        named = [*self.model.named_parameters(), *self._owned.items()]
        bad = [
            name for name, parameter in named if parameter.requires_grad and not bool(torch.isfinite(parameter).all())
        ]
        if bad:
            raise NonFiniteError(self._non_finite(f"{len(bad)} weights are not finite, first {bad[0]},", []))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.write_temperature()
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        for file, held in ((_LOSS_PARAMETERS, self._owned), (_ADAPTERS, self._adapted())):
            if held:
                save_file({name: value.detach().cpu().contiguous() for name, value in held.items()}, folder / file)

    def _adapted(self) -> dict[str, torch.Tensor]:
        """With LoRA, what is trained and the buffers: a checkpoint's model has no place for adapters."""
        if self.args.lora is None:
            return {}
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        return {**trained, **dict(self.model.named_buffers())}

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        if self.args.lora is None:
            super()._load_from_checkpoint(checkpoint_path)
        for file, held in ((_LOSS_PARAMETERS, self._owned), (_ADAPTERS, self._adapted())):
            if held:
                read_tensors(held, Path(checkpoint_path) / file)

    def _load_best_model(self) -> None:
        # sentence-transformers would log a failure and hand over the last weights as the best ones
        verify_checkpoint(self.state.best_model_checkpoint)
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def write_temperature(self) -> None:
        """Copy a learnt temperature and bias into the model's own `logit_scale` and `logit_bias`, where it has them."""
        for learnt_as, kept_as in (("log_scale", "logit_scale"), ("bias", "logit_bias")):
            learnt = [p for name, p in self._owned.items() if name.rpartition(".")[2] == learnt_as]
            kept = [p for name, p in self.model.named_parameters() if name.endswith(kept_as)]
            if learnt and kept:
                with torch.no_grad():
                    kept[0].fill_(learnt[0].item())


def _data_seed(args: EmbeddingTrainingArguments) -> int:
    return args.seed if args.data_seed is None else args.data_seed


def _row_numbers(data: TrainingPairs | None) -> Dataset | None:
    """What the data loader indexes: numbers; the collator looks the rows up where it runs."""
    return None if data is None else Dataset.from_dict({"row": list(range(len(data)))})


def _freeze_unused(model: SentenceTransformer) -> None:
    """What no vector depends on does not learn: on several processes weight decay alone would move it.

    The loss has its own temperature instead of a model's logit scale and bias; and where another module pools the tokens,
    a tower's own pooler, which stock models are saved with, has no part in it.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("logit_scale", "logit_bias")):
            parameter.requires_grad_(False)
    if getattr(model[0], "module_output_name", None) == "token_embeddings":
        pooler = getattr(model.transformers_model, "pooler", None)
        if isinstance(pooler, nn.Module):
            pooler.requires_grad_(False)
