"""How far a run is: a small file, written as it steps, that another process reads."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from mmembed.training.run_lock import write_whole

PROGRESS = "progress.json"
_SECONDS_BETWEEN = 2.0


class ProgressFile(TrainerCallback):
    """Keeps `progress.json` of a run: step, steps in all, and the rate since this process began to step.

    Args:
        path: The file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._began, self._first_step, self._written = time.time(), 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began, self._first_step = time.time(), state.global_step
        self._write(args, state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if time.time() - self._written >= _SECONDS_BETWEEN:
            self._write(args, state)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(args, state)

    def _write(self, args: Any, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._written = time.time()
        seconds, steps = self._written - self._began, state.global_step - self._first_step
        rate = steps / seconds if steps and seconds > 0 else None
        rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.path.parent.mkdir(parents=True, exist_ok=True)
        progress = {
            "step": state.global_step,
            "max_steps": state.max_steps,
            "epoch": state.epoch,
            "steps_per_second": rate,
            "rows_per_second": rate * rows if rate else None,
            "updated": self._written,
            "host": socket.gethostname(),
        }
        write_whole(self.path, json.dumps(progress) + "\n")
