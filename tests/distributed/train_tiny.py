"""Trains a tiny model for a few steps; run by one process or by several, to compare what comes out."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from safetensors.torch import save_file

from mmembed.data.samplers import DistinctBatchSampler
from mmembed.data.training_pairs import TrainingPairs
from mmembed.images import ImageReader
from mmembed.training.arguments import EmbeddingTrainingArguments
from mmembed.training.trainer import EmbeddingTrainer

FEATURES = Features(
    {"id": Value("string"), "text": Value("string"), "image": Image(decode=False), "group": Value("string")}
)


def items(rows: int, with_image: set[int], with_text: bool) -> Dataset:
    def picture(row: int) -> dict:
        pixels = np.random.default_rng(row).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        file = io.BytesIO()
        PILImage.fromarray(pixels).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    table = {
        "id": [f"{row}" for row in range(rows)],
        "text": [f"word{row} colour{row % 5}" if with_text or row not in with_image else None for row in range(rows)],
        "image": [picture(row) if row in with_image else None for row in range(rows)],
        "group": [f"g{row}" for row in range(rows)],
    }
    return Dataset.from_dict(table, features=FEATURES)


def model_of(kind: str):
    from tests.tiny_models import tiny_bert, tiny_clip, tiny_dual_encoder

    torch.manual_seed(0)
    return {"clip": tiny_clip, "bert": tiny_bert, "dual_encoder": tiny_dual_encoder}[kind]()


def main() -> None:
    options = json.loads(sys.argv[1])
    rows, out = options["rows"], Path(options["output_dir"])
    # before the processes form a group: in one, transformers saves on the first rank alone
    model = model_of(options.get("model", "dual_encoder"))
    args = EmbeddingTrainingArguments(
        output_dir=str(out / "run"),
        use_cpu=True,
        per_device_train_batch_size=options["batch_size"],
        num_train_epochs=options.get("epochs", 1),
        optim="sgd",
        learning_rate=0.05,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        weight_decay=0.1,
        loss=options.get("loss", "MultipleNegativesRankingLoss"),
        loss_arguments={"gather_across_devices": True, **options.get("loss_arguments", {})},
        matryoshka_dims=options.get("matryoshka_dims"),
    )
    everything = set(range(rows))
    queries = items(rows, everything, with_text=True)
    documents = queries
    if options.get("only_rank_0_has_images"):
        whole = TrainingPairs(queries, queries, show_progress_bar=False)
        plan = list(DistinctBatchSampler(whole, batch_size=options["rank_batch_size"], world_size=2, seed=args.seed))
        images = {row for batch in plan[::2] for row in batch}
        documents = items(rows, images, with_text=False)  # the others are texts
    ids = queries["id"][:]
    pairs = Dataset.from_dict({"query_id": ids, "positive_ids": [[i] for i in ids], "negative_ids": [[]] * rows})
    use = "text" if options.get("model") == "bert" else "fused" if documents is not queries else "image"
    if use == "text":
        documents = queries.map(lambda row: {"text": f"{row['text']} shirt"}).cast(FEATURES)
    data = TrainingPairs(queries, documents, pairs, document_use=use, show_progress_bar=False)
    for module in model.modules():  # dropout draws per process; all else must be equal
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):  # its statistics are those of a local batch
            module.eval().train = lambda mode=True, module=module: module
    trainer = EmbeddingTrainer(model, args, data, reader=ImageReader())
    trainer.train()
    if trainer.is_world_process_zero():
        state = {name: p.detach().clone().contiguous() for name, p in model.named_parameters()}
        state.update({f"loss.{name}": p.detach().clone() for name, p in trainer._owned.items()})
        save_file(state, str(out / "state.safetensors"))
    # a process that leaves while the group's threads run may abort
    trainer.leave_group()


if __name__ == "__main__":
    main()
