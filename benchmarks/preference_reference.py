"""What does it save to compute the reference's log-probabilities once? Preference training with and without, in turns.

    python benchmarks/preference_reference.py                         # 8 steps of 8 pairs, five pictures each
    python benchmarks/preference_reference.py --steps 3 --pairs 8 --repeats 1

A small Idefics3 made in code (random weights), pairs of questions about five drawn pictures. TRL computes the reference in every
step, and refuses to compute it once for images; `PreferenceTrainer` computes it once before the first step. Both train on the
same pairs in the same order, and their losses are compared. `steps` is the time of training alone, `once` what is spent before
it; `pays after` says after how many passes over the pairs what was spent is saved.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from typing import Any

from alternating import alternate, machine, median, ratio

ONCE, LIVE = "once", "in every step"


def build_pairs(count: int) -> Any:
    """Pairs about five drawn products each."""
    import numpy as np
    from datasets import Dataset

    from mmembed.data.catalogue.draw import draw_photo
    from mmembed.data.catalogue.products import generate_products
    from mmembed.interactive.question_prompt import question_messages, reply_messages
    from mmembed.interactive.questions import DialogueState

    pictures = [draw_photo(product, 0, size=56) for product in generate_products(40)]
    ids = tuple("abcde")
    state = DialogueState("a mug", (), ids, np.full(5, 0.2), shown=ids)
    return Dataset.from_list(
        [
            {
                "prompt": question_messages(state),
                "chosen": reply_messages("Is it red?" if number % 2 else "Does it have a handle?"),
                "rejected": reply_messages("Does it have a handle?" if number % 2 else "Is it red?"),
                "images": [pictures[(5 * number + place) % len(pictures)] for place in range(5)],
            }
            for number in range(count)
        ]
    )


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Train once and tell the times and the losses."""
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from mmembed.interactive.preference_trainer import LANGUAGE_MODEL, PreferenceTrainer, preference_arguments
    from mmembed.interactive.question_prompt import INSTRUCTIONS
    from mmembed.interactive.small_vision_language import build_small_vision_language

    with tempfile.TemporaryDirectory() as folder:
        build_small_vision_language(f"{folder}/model", [INSTRUCTIONS] * 5, hidden_size=arguments.hidden_size)
        adapter = LoraConfig(r=8, target_modules=LANGUAGE_MODEL) if arguments.train == "lora" else None
        began = time.process_time()
        trainer = PreferenceTrainer(
            AutoModelForImageTextToText.from_pretrained(f"{folder}/model"),
            preference_arguments(
                f"{folder}/run", use_cpu=True, max_steps=arguments.steps, per_device_train_batch_size=arguments.batch,
                learning_rate=1e-3, logging_steps=1, save_strategy="no", disable_tqdm=True,
            ),
            train_dataset=build_pairs(arguments.pairs),
            processing_class=AutoProcessor.from_pretrained(f"{folder}/model"),
            adapter=adapter,
            precompute_reference=arguments.system == ONCE,
        )  # fmt: skip
        made = time.process_time()
        trainer.train()
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        return {
            "steps": (time.process_time() - made) / arguments.steps,
            "before": made - began,
            "loss": float(losses[-1]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--hidden_size", type=int, default=64)
    parser.add_argument("--train", nargs="+", default=["full", "lora"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--system", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.system is not None:
        arguments.train = arguments.train[0]
        print(json.dumps(measure(arguments)))
        return
    shared = [f"--{name}={getattr(arguments, name)}" for name in ("pairs", "batch", "steps", "hidden_size")]
    print(machine(arguments.threads))
    print("| trained | reference | CPU seconds a step | CPU seconds before | loss |\n|---|---|---|---|---|")
    for train in arguments.train:
        systems = {name: [*shared, "--train", train, "--system", name] for name in (ONCE, LIVE)}
        runs = alternate(__file__, systems, repeats=arguments.repeats, threads=arguments.threads)
        for name, found in runs.items():
            print(
                f"| {train} | {name} | {median(found, 'steps'):.3f} | {median(found, 'before'):.1f} | {median(found, 'loss'):.5f} |"
            )
        print(f"| {train} | **{ONCE} / {LIVE}** | **{ratio(runs[ONCE], runs[LIVE], 'steps')}** | | |")
        saved = median(runs[LIVE], "steps") - median(runs[ONCE], "steps")
        spent = median(runs[ONCE], "before") - median(runs[LIVE], "before")
        passes = spent / (saved * arguments.pairs / arguments.batch) if saved > 0 else float("inf")
        print(f"| {train} | pays after | {passes:.1f} passes over the pairs | | |")
        differ = max(abs(one["loss"] - other["loss"]) for one, other in zip(runs[ONCE], runs[LIVE]))
        if differ > 1e-4:
            sys.exit(f"the losses differ by {differ:.2g}")


if __name__ == "__main__":
    main()
