"""What a question is about: its own words, in three languages."""

from __future__ import annotations

import pytest

from mmembed.search.content_words import own_words, rough_stem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Is it red?", ["red"]),
        ("What is this?", []),
        ("Does the MUG have two handles, or 3?", ["mug", "two", "handles", "3"]),
        ("Какого она цвета?", ["какого", "цвета"]),
        ("请问它的颜色是红色吗？", ["它", "颜色", "红色", "色吗"]),
        ("", []),
        ("?!", []),
    ],
)
def test_own_words(text: str, words: list[str]) -> None:
    assert own_words(text) == words


def test_forms_of_a_word_share_their_beginning() -> None:
    assert len({rough_stem(word) for word in ("striped", "stripes", "stripe")}) == 1
    assert len({rough_stem(word) for word in ("красный", "красная", "красное")}) == 1
    assert rough_stem("red") == "red" and rough_stem("颜色") == "颜色" and rough_stem("") == ""
