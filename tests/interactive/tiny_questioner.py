"""A tiny Idefics3 and pairs for it: of pictures of one colour each, the question that names it is the better one."""

from __future__ import annotations

import functools
import tempfile

import numpy as np
from datasets import Dataset
from PIL import Image

from mmembed.interactive.question_prompt import INSTRUCTIONS, question_messages, reply_messages
from mmembed.interactive.questions import DialogueState
from mmembed.interactive.small_vision_language import build_small_vision_language

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}
QUESTIONS = {name: f"Is it {name}?" for name in COLOURS}


@functools.cache
def tiny_folder() -> str:
    texts = [INSTRUCTIONS] * 5 + [*QUESTIONS.values(), "<<<query dialogue captions options>>>"] * 20
    return build_small_vision_language(tempfile.mkdtemp(), texts, vocab_size=500)


def tiny_model():
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(tiny_folder())


def tiny_processor():
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(tiny_folder())


def colour_pairs(count: int, *, seed: int = 0, shown: int = 5, instructions: str = INSTRUCTIONS) -> Dataset:
    """Pairs whose images are all red or all blue: the question after that colour is chosen, the other one rejected."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        name = list(COLOURS)[number % 2]
        other = list(COLOURS)[1 - number % 2]
        ids = tuple("abcde")[:shown]
        state = DialogueState("a mug", (), ids or ("a",), np.full(max(shown, 1), 1 / max(shown, 1)), shown=ids)
        noise = rng.integers(-25, 25, (shown, 56, 56, 3))
        images = [
            Image.fromarray((np.array(COLOURS[name]) + noise[place]).clip(0, 255).astype(np.uint8))
            for place in range(shown)
        ]
        rows.append(
            {
                "prompt": question_messages(state, instructions=instructions),
                "chosen": reply_messages(QUESTIONS[name]),
                "rejected": reply_messages(QUESTIONS[other]),
                "images": images,
                "rank_before": 30.0,
            }
        )
    return Dataset.from_list(rows)
