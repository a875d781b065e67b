"""What happens beside the steps of training: a log that is always written, and gradients of the loss's own parameters."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from mmembed.distributed import average


class MetricsLog(TrainerCallback):
    """Appends what the trainer logs to `metrics.jsonl`, one JSON object a line; a resumed run goes on where it resumed.

    Args:
        path: The file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self._lines() if state.global_step else []
        kept = [line for line in before if line["step"] <= state.global_step and "train_runtime" not in line]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self.path)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            # train_loss is left out: after a resume it is a part of the sum divided by all steps
            values = {k: v for k, v in logs.items() if k not in ("train_loss", "total_flos")}
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **values}) + "\n")

    def _lines(self) -> list[dict]:
        if not self.path.exists():
            return []
        lines = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break  # the line that was being written when the run was killed
        return lines


class AverageOwnedGradients(TrainerCallback):
    """Averages, over processes and before each optimizer step, the gradients of parameters that the loss owns.

    DDP averages only those of the model it wraps.

    Args:
        parameters: Gives the loss's own parameters.
    """

    def __init__(self, parameters: Callable[[], list[torch.nn.Parameter]]) -> None:
        self.parameters = parameters

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        owned = self.parameters()
        for parameter in owned:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        average([parameter.grad for parameter in owned])


class EpochClock(TrainerCallback):
    """Tells the batch sampler, and through shared memory the collators, which epoch begins.

    The trainer's own `set_epoch` does not reach a sampler behind accelerate's sharding and skipping wrappers.

    Args:
        epoch: int64 tensor of shape (1,) in shared memory.
    """

    def __init__(self, epoch: torch.Tensor) -> None:
        self.epoch = epoch

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epoch.fill_(math.floor((state.epoch or 0.0) + 1e-6))
