"""A folder of a tiny random vision-language model (Idefics3), with its processor and chat template."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from mmembed.interactive.small_vision_language import build_small_vision_language, words_tokenizer
from tests.models.tiny_models import WORDS

TEXTS = [*WORDS, *["yes no Yes No"] * 40]


def tiny_words() -> PreTrainedTokenizerFast:
    return words_tokenizer(TEXTS, 420)


def tiny_vision_language(folder: Path) -> Path:
    """A transformers folder of the model, as its makers would publish one."""
    build_small_vision_language(
        folder,
        TEXTS,
        vocab_size=420,
        hidden_size=32,
        heads=2,
        image_hidden_size=16,
        image_layers=1,
        image_heads=2,
        max_positions=512,
        seed=3,
    )
    model = AutoModelForImageTextToText.from_pretrained(folder)
    torch.manual_seed(4)
    with torch.no_grad():  # wide apart, so that another pair has another score
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder
