"""How is a text worded for BLIP: the rounds of a dialogue, joined as ChatIR joins them, and a caption, cleaned as BLIP does?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sentence_transformers import SentenceTransformer

DIALOGUE_TOKENS = 200
CAPTION_TOKENS = 35

_MARKS = re.compile(r"([.!\"()*#:;~])")
_SPACES = re.compile(r"\s{2,}")


def dialogue_text(rounds: Sequence[str]) -> str:
    """The text of a dialogue: the caption and then a question with its answer a round, joined by ", ".

    Nothing is cleaned: ChatIR keeps upper case and punctuation for the tokenizer.

    Args:
        rounds: The caption, and "question? answer" of each round so far.

    Returns:
        One text (Levy et al. 2023, https://arxiv.org/abs/2305.20062).

    Raises:
        ValueError: If there is no round, or one is no string.

    Example:
        >>> dialogue_text(["a dog in the park", "is the dog red? no"])
        'a dog in the park, is the dog red? no'
    """
    if isinstance(rounds, str) or not rounds or not all(isinstance(part, str) for part in rounds):
        raise ValueError(f"a dialogue is a list of at least one string, a round each; got {rounds!r}.")
    return ", ".join(rounds)


def encode_dialogues(
    model: SentenceTransformer,
    dialogues: Sequence[Sequence[str]],
    *,
    max_tokens: int = DIALOGUE_TOKENS,
    **kwargs: Any,
) -> Any:
    """Vectors of dialogues, as ChatIR encodes its queries.

    What lies beyond the limit is cut off, which in a long dialogue are the latest rounds. The model's own limit, 35 tokens
    where it was converted for captions, does not count here.

    Args:
        model: A BLIP bi-encoder, or another text encoder with as many positions.
        dialogues: The rounds of each, as `dialogue_text` takes them.
        max_tokens: Tokens, [CLS] and [SEP] among them, at which a dialogue is cut.
        **kwargs: Arguments of `SentenceTransformer.encode`.

    Returns:
        What `encode` returns, (dialogues, dim).
    """
    texts = [{"text": dialogue_text(rounds)} for rounds in dialogues]
    return model.encode(texts, processing_kwargs={"text": {"max_length": max_tokens}}, **kwargs)


def clean_caption(caption: str, max_words: int = 50) -> str:
    """A caption as BLIP's data sets clean it before training and evaluation.

    Lower case; each of . ! " ( ) * # : ; ~ becomes a space; runs of spaces become one; words beyond a limit are cut.

    Args:
        caption: A caption in English.
        max_words: Words that are kept; BLIP trains on 30 and evaluates on 50.

    Returns:
        The cleaned caption.

    Example:
        >>> clean_caption("A Dog (running) on the beach!!")
        'a dog running on the beach'
    """
    text = _SPACES.sub(" ", _MARKS.sub(" ", caption.lower())).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])
