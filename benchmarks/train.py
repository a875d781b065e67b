"""How fast does it train? mmembed's trainer against sentence-transformers' own: pairs a second and peak memory.

    python recipes/fashion/prepare.py --source DIR --output_dir fashion
    python benchmarks/train.py --items fashion/products.jsonl --image_root DIR

Title → image from JPEG files, with the same stock CLIP, loss, batch, mini-batch, optimizer and image processor.
sentence-transformers gets a `datasets` table with an `Image` column and its default shuffling; mmembed keeps its defaults:
batches of distinct rows, the false-negative mask and the checks for values that are not finite. Every run is a process of
its own, in turns; the first steps are left out. CPU time is the training process's own and says the same on a busy machine,
where pairs a second swing with what else runs; with worker processes it leaves theirs out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alternating import alternate, machine, median, peak_memory, ratio

LOSSES = ("MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss")
_MMEMBED, _PEER = "mmembed", "sentence-transformers"


def build_clip(folder: str, texts: list[str]) -> None:
    """A small stock CLIP with random weights, saved as sentence-transformers saves it: 224 pixels in patches of 32."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    from mmembed.models.dual_encoder.building import train_tokenizer
    from mmembed.models.loading import load_model

    tokenizer = train_tokenizer(texts, vocab_size=4096, max_length=48)
    ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id, "pad_token_id": 0}
    text = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, **ids}
    vision = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 6}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={**text, "vocab_size": len(tokenizer), "max_position_embeddings": 48},
            vision_config={**vision, "image_size": 224, "patch_size": 32},
            projection_dim=128,
        )
    )
    with tempfile.TemporaryDirectory() as plain:
        model.save_pretrained(plain)
        CLIPProcessor(CLIPImageProcessorPil(), tokenizer).save_pretrained(plain)
        load_model(plain, device="cpu").save_pretrained(folder)


def read_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Title and image file of the first rows of the training split that one run passes over."""
    with open(options.items, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = [row for row in rows if row.get("split", "train") == "train" and row["text"]]
    return rows[: options.batch_size * options.steps + options.batch_size]


def arguments_of_both(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch_size,
        "dataloader_num_workers": options.num_workers,
        "learning_rate": 1e-4,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def mmembed_trainer(options: argparse.Namespace, folder: str) -> Any:
    from mmembed import EmbeddingTrainer, EmbeddingTrainingArguments, load_model, read_items
    from mmembed.data.training_pairs import TrainingPairs
    from mmembed.images import ImagePolicy, ImageReader

    wanted = {str(row["id"]) for row in read_rows(options)}
    items = read_items(options.items, image_root=options.image_root, keep_columns=[])
    items = items.select([number for number, id in enumerate(items["id"][:]) if id in wanted])
    settings = {"mini_batch_size": options.mini_batch_size} if options.loss.startswith("Cached") else {}
    args = EmbeddingTrainingArguments(**arguments_of_both(options, folder), loss=options.loss, loss_arguments=settings)
    reader = ImageReader(ImagePolicy(root=options.image_root))
    data = TrainingPairs(items, items, show_progress_bar=False)
    return EmbeddingTrainer(load_model(options.model, device="cpu"), args, data, reader=reader)


def peer_trainer(options: argparse.Namespace, folder: str) -> Any:
    from datasets import Dataset, Image
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses

    rows = read_rows(options)
    columns = {
        "text": [row["text"] for row in rows],
        "image": [str(Path(options.image_root) / row["image"]) for row in rows],
    }
    dataset = Dataset.from_dict(columns).cast_column("image", Image())
    model = SentenceTransformer(options.model, device="cpu")
    settings = {"mini_batch_size": options.mini_batch_size} if options.loss.startswith("Cached") else {}
    loss = getattr(losses, options.loss)(model, **settings)
    args = SentenceTransformerTrainingArguments(**arguments_of_both(options, folder))
    return SentenceTransformerTrainer(model=model, args=args, train_dataset=dataset, loss=loss)


def measure_one(options: argparse.Namespace) -> dict[str, float]:
    """Train once and give pairs a second, pairs a CPU second, peak MiB and the mean loss."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Wall and CPU time at the end of each step; the next one fetches its batch before it begins."""

        marks: list[tuple[float, float]] = []

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.marks.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        trainer = (mmembed_trainer if options.child == _MMEMBED else peer_trainer)(options, folder)
        trainer.add_callback(Clock())
        result = trainer.train()
    first, last = Clock.marks[options.left_out - 1], Clock.marks[-1]
    pairs = (len(Clock.marks) - options.left_out) * options.batch_size
    return {
        "pairs_per_second": pairs / (last[0] - first[0]),
        "pairs_per_cpu_second": pairs / (last[1] - first[1]),
        "peak_mib": peak_memory(),
        "loss": result.training_loss,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", required=True, help="JSON lines with id, text, image and split")
    parser.add_argument("--image_root", required=True, help="folder that the image paths start from")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--mini_batch_size", type=int, default=16, help="of the cached loss")
    parser.add_argument("--steps", type=int, default=12, help="steps of a run")
    parser.add_argument("--left_out", type=int, default=2, help="steps at the start that are not counted")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument("--num_workers", type=int, default=0, help="worker processes that load data")
    parser.add_argument("--loss", choices=LOSSES, help="one of the losses only")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=["build", _MMEMBED, _PEER], help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.image_root = str(Path(options.image_root).resolve())
    if options.child == "build":
        build_clip(options.model, [row["text"] for row in read_rows(options)])
        print(json.dumps({}))
        return 0
    if options.child:
        print(json.dumps(measure_one(options)))
        return 0
    kept = [f"--{name}={value}" for name, value in vars(options).items() if name not in ("loss", "model", "child")]
    print("| loss | trainer | pairs/s | pairs / CPU s | peak MiB | loss after |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as model:
        kept += ["--model", model]
        alternate(__file__, {"model": [*kept, "--child", "build"]}, repeats=1, threads=options.threads)
        for loss in [options.loss] if options.loss else LOSSES:
            systems = {name: [*kept, "--loss", loss, "--child", name] for name in (_MMEMBED, _PEER)}
            runs = alternate(__file__, systems, repeats=options.repeats, threads=options.threads)
            for name, found in runs.items():
                figures = [
                    median(found, key) for key in ("pairs_per_second", "pairs_per_cpu_second", "peak_mib", "loss")
                ]
                print("| {} | {} | {:.1f} | {:.1f} | {:.0f} | {:.3f} |".format(loss, name, *figures))
            ratios = [
                ratio(runs[_MMEMBED], runs[_PEER], key)
                for key in ("pairs_per_second", "pairs_per_cpu_second", "peak_mib")
            ]
            print(f"| {loss} | mmembed / peer | {' | '.join(ratios)} | |", flush=True)
    print(f"\n{machine(options.threads)}, {options.num_workers} workers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
