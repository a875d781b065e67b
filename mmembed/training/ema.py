"""The moving average of the weights along training: smoother than the last step, and nearer to where training began."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from torch import Tensor, nn
from transformers import TrainerCallback

from mmembed.training.checkpoints import read_tensors

EMA_FILE = "ema.safetensors"


class ExponentialMovingAverage(TrainerCallback):
    """Averages the trained weights over the steps and, when training ends, puts the average into the model.

    After each optimizer step, with the weights theta_t and the average beginning as the weights that training starts from:

        average_t = decay * average_(t-1) + (1 - decay) * theta_t

    so the start still weighs decay**t: with fewer than about 1 / (1 - decay) steps the result stays near the start.
    (Polyak and Juditsky 1992; its use against forgetting is that of weight averaging, see `weight_averaging`.)

    The average is written into each checkpoint before its manifest, so that a resumed run goes on with it exactly. With
    `load_best_model_at_end` the average of the best checkpoint is taken; `evaluated` makes that choice one of the average.

    Args:
        model: The model in training.
        decay: In (0, 1).

    Raises:
        ValueError: If the decay lies outside (0, 1), or the run would write checkpoints that the average cannot join.

    Example:
        >>> body = nn.Linear(1, 1, bias=False); _ = nn.init.zeros_(body.weight)
        >>> ema = ExponentialMovingAverage(body, decay=0.75)
        >>> for _ in range(2):
        ...     _ = nn.init.ones_(body.weight); ema.update()
        >>> with ema.in_place():
        ...     body.weight.item()  # 1 - 0.75 ** 2
        0.4375
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema={decay}; it must lie between 0 and 1, such as 0.999.")
        self.model, self.decay = model, decay
        self._average: dict[str, Tensor] = {}
        self._start()

    def _start(self) -> None:
        # float32 at least: 1 - decay of a bfloat16 weight is lost in its rounding
        self._average = {
            name: parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32)).clone()
            for name, parameter in self._trained().items()
        }

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's weights into the average."""
        for name, parameter in self._trained().items():
            self._average[name].lerp_(parameter.detach().to(self._average[name]), 1 - self.decay)

    @torch.no_grad()
    def put_in(self) -> None:
        """Overwrite the model's weights by their average."""
        for name, parameter in self._trained().items():
            parameter.copy_(self._average[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the averaged weights, and its own again afterwards."""
        own = {name: parameter.detach().clone() for name, parameter in self._trained().items()}
        self.put_in()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._trained().items():
                    parameter.copy_(own[name])

    def evaluated(self, evaluator: SentenceEvaluator) -> SentenceEvaluator:
        """The evaluator, measuring the averaged weights."""
        return _OfAverage(evaluator, self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        strategy = str(getattr(args.save_strategy, "value", args.save_strategy))
        if strategy == "best" or args.deepspeed:
            what = "save_strategy='best'" if strategy == "best" else "DeepSpeed"
            raise ValueError(f"ema does not go with {what}: use save_strategy 'steps' or 'epoch', without DeepSpeed.")
        self._start()  # on the device that the model is on now
        if state.global_step:
            self._read(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.update()
        self._write(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(args, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._read(Path(state.best_model_checkpoint))
        self.put_in()

    def _write(self, args: Any, state: Any, control: Any) -> None:
        # before the trainer writes the checkpoint, whose manifest then holds this file's hash too
        if control.should_save and state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.cpu().contiguous() for name, tensor in self._average.items()}, folder / EMA_FILE)

    def _read(self, checkpoint: Path) -> None:
        read_tensors(self._average, checkpoint / EMA_FILE)


class _OfAverage(SentenceEvaluator):
    def __init__(self, evaluator: SentenceEvaluator, ema: ExponentialMovingAverage) -> None:
        super().__init__()
        self.evaluator, self.ema = evaluator, ema
        self.primary_metric, self.greater_is_better = evaluator.primary_metric, evaluator.greater_is_better

    def __call__(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        with self.ema.in_place():
            return self.evaluator(model, *args, **kwargs)

    def get_config_dict(self) -> dict[str, Any]:
        return {**self.evaluator.get_config_dict(), "ema": self.ema.decay}
