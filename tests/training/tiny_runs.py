"""Tables, pairs and trainers of a few rows, for the tests of training."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from mmembed.data.augment import Augmentation
from mmembed.data.training_pairs import TrainingPairs
from mmembed.images import ImageReader
from mmembed.training.arguments import EmbeddingTrainingArguments
from mmembed.training.trainer import EmbeddingTrainer
from tests.tiny_models import tiny_dual_encoder

FEATURES = Features(
    {"id": Value("string"), "text": Value("string"), "image": Image(decode=False), "group": Value("string")}
)
QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}
AUGMENTATION = {"crop": (0.5, 1.0), "flip": 0.5, "colour": 0.2}
LEARNT = {"temperature": 0.1, "learnable_temperature": True}


def png(seed: int, size: int = 32) -> bytes:
    """A picture of noise around a colour of its own."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 255, 3) * 0.7 + random.integers(0, 77, (size, size, 3))
    file = io.BytesIO()
    PILImage.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def items(rows: int, size: int = 32, **columns: list) -> Dataset:
    table = {
        "id": [f"i{row}" for row in range(rows)],
        "text": [f"word{row} colour{row % 5} {'red' if row % 2 else 'blue'}" for row in range(rows)],
        "image": [{"bytes": png(row, size), "path": None} for row in range(rows)],
        "group": [f"g{row}" for row in range(rows)],
    }
    return Dataset.from_dict({**table, **columns}, features=FEATURES)


def pairs(rows: int, *, positives: int = 1, negatives: int = 0, scores: bool = False) -> Dataset:
    """Row i finds items i, i + 1, … and is told of the ones after those as its negatives."""
    ids = [f"i{row}" for row in range(rows)]
    table: dict[str, list] = {
        "query_id": ids,
        "positive_ids": [[ids[(row + k) % rows] for k in range(positives)] for row in range(rows)],
        "negative_ids": [[ids[(row + positives + k) % rows] for k in range(negatives)] for row in range(rows)],
    }
    if scores:
        table["positive_scores"] = [[0.9] * positives] * rows
        table["negative_scores"] = [[0.1] * negatives] * rows
    return Dataset.from_dict(table)


def training_pairs(rows: int = 12, *, positives: int = 1, negatives: int = 0, **arguments: Any) -> TrainingPairs:
    table = items(rows)
    scored = arguments.get("scored", False)
    return TrainingPairs(
        table,
        table,
        pairs(rows, positives=positives, negatives=negatives, scores=scored or arguments.get("teacher_scores", False)),
        **{"num_negatives": 0 if scored else negatives, "show_progress_bar": False, **arguments},
    )


def make_trainer(
    folder: Path, data: TrainingPairs | None = None, model: Any = None, **settings: Any
) -> EmbeddingTrainer:
    """A trainer; settings that are arguments of the trainer itself go there, all others into its arguments."""
    own = ("loss_module", "evaluator", "augmentation", "image_features", "guide", "callbacks", "eval_data")
    given = {name: settings.pop(name) for name in own if name in settings}
    if "loss_module" in given:
        given["loss"] = given.pop("loss_module")
    if isinstance(given.get("augmentation"), dict):
        given["augmentation"] = Augmentation(**given["augmentation"])
    defaults = {**QUIET, "per_device_train_batch_size": 4, "max_steps": 3, "learning_rate": 1e-2}
    if "num_train_epochs" in settings:
        defaults.pop("max_steps")
    args = EmbeddingTrainingArguments(output_dir=str(folder), **{**defaults, **settings})
    torch.manual_seed(0)
    model = tiny_dual_encoder() if model is None else model
    return EmbeddingTrainer(model, args, data if data is not None else training_pairs(), reader=ImageReader(), **given)


def state(trainer: EmbeddingTrainer) -> dict[str, torch.Tensor]:
    """Every weight, every buffer and every parameter of the loss's own."""
    held = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
    held.update({f"loss.{name}": p.detach().clone() for name, p in trainer._owned.items()})
    return held


def log(folder: Path) -> list[dict]:
    """The lines of a run's log, without what a clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("runtime", "per_second")
    lines = [{k: v for k, v in line.items() if not k.endswith(timed)} for line in lines]
    return [line for line in lines if set(line) - {"step", "epoch"}]


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert set(one) == set(two)
    differing = [name for name in one if not torch.equal(one[name], two[name])]
    assert not differing, differing
