"""What `mmembed train` without any data does: the small model and the training of the drawn catalogue."""

from __future__ import annotations

from typing import Any

MODEL: dict[str, Any] = {"image_size": 64, "projection_dim": 128}

AUGMENTATION: dict[str, Any] = {"crop": [0.75, 1.0], "flip": 0.5, "colour": 0.1}

TRAINING: dict[str, Any] = {
    "num_train_epochs": 60.0,
    "per_device_train_batch_size": 128,
    "per_device_eval_batch_size": 128,
    "learning_rate": 1e-3,
    "warmup_steps": 0.1,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.05,
    "loss_arguments": {
        "temperature": 0.07,
        "learnable_temperature": True,
        "directions": ["query_to_doc", "doc_to_query"],
        "partition_mode": "per_direction",
    },
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_steps": 50,
}
