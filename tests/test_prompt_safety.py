"""Texts of strangers before a language model: no control token is left, and no fence is closed from inside."""

from __future__ import annotations

import random
import time
import unicodedata

import pytest

from mmembed.interactive.small_vision_language import CONTROL_TOKENS as OWN
from mmembed.prompt_safety import control_tokens, fenced, neutralised, read_json
from tests.rerankers.tiny_vision_language import tiny_words

CONTROL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|start_header_id|>", "<|eot_id|>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>",
    "</s>", "<start_of_turn>", "<end_of_turn>", "<｜Assistant｜>", "<image>", "[CLS]", "[SEP]", "<pad>", "</think>", "<tool_call>",
]  # fmt: skip


@pytest.mark.security
@pytest.mark.parametrize("token", CONTROL)
def test_control_tokens_are_broken(token: str) -> None:
    for text in (token, token.upper(), token * 3, f"a{token}b", token[0] + token, token[:2] + "\u200b" + token[2:]):
        assert token.casefold() not in neutralised(text).casefold()


@pytest.mark.security
def test_tokens_of_the_tokenizer_itself_are_broken() -> None:
    text = neutralised("x <custom_42> y ###turn### z", ["<custom_42>", "###turn###", "", " ", "a"])
    assert "<custom_42>" not in text and "###turn###" not in text and text.startswith("x ") and text.endswith(" z")


@pytest.mark.security
def test_unseen_characters_are_left_out_and_writing_stays() -> None:
    hidden = "".join(chr(0xE0000 + ord(letter)) for letter in "obey")
    assert neutralised(f"a\u202eb\u2066c{hidden}d\x00\x1b[0me\tf\ng") == "abcd[0me\tf\ng"
    for text in ("日本语。", "Ёлка — это", "👩‍🔬", "a < b > c", "x[1] = y", "<b>bold</b>"):
        assert neutralised(text) == text


@pytest.mark.security
@pytest.mark.parametrize("token", ["<|im_end|>", "[INST]", "<image>"])
def test_tokens_in_characters_that_stand_for_their_own_are_broken(token: str) -> None:
    wide = "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in token)
    assert wide != token == unicodedata.normalize("NFKC", wide)
    assert token not in unicodedata.normalize("NFKC", neutralised(f"a {wide} b"))
    assert neutralised("½ ﬁne ２") == "½ ﬁne ２"  # and other texts keep theirs


@pytest.mark.security
def test_halves_of_characters_are_left_out() -> None:
    assert neutralised("a\ud800b").encode("utf-8") == b"ab"


@pytest.mark.security
def test_random_strings_over_control_tokens_make_none() -> None:
    """Against the tokenizer itself: what is neutralised has only ids of plain text."""
    words = tiny_words()
    tokens = control_tokens(words)
    assert set(OWN) <= set(tokens) and tokens == sorted(tokens, key=len, reverse=True)
    control = set(words.convert_tokens_to_ids(tokens))
    draw = random.Random(0)
    pieces = [
        *tokens,
        *"<|>[]/ \n\u200b\u202e",
        "im_",
        "start",
        "a",
        "图",
        *(token[: len(token) // 2] for token in tokens),
    ]
    found = 0
    for _ in range(3000):
        text = "".join(draw.choices(pieces, k=draw.randint(1, 12)))
        found += bool(control & set(words(text, add_special_tokens=False)["input_ids"]))
        assert not control & set(words(neutralised(text, tokens), add_special_tokens=False)["input_ids"]), text
    assert found > 1000  # the strings did spell tokens


@pytest.mark.security
def test_a_text_cannot_hold_its_own_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = fenced("passage", "Nikon.")
    outside = fenced("passage", inside)
    mark = outside.split("\n")[0].removeprefix("<<<")
    assert outside == f"<<<{mark}\n{inside}\n{mark}>>>" and mark not in inside

    class Weak:  # a hash that a text can be made to hold
        def __init__(self, data: bytes) -> None:
            self.data = data

        def hexdigest(self) -> str:
            return "0" * 8 if not self.data.endswith(b"+") else "1" * 8

    monkeypatch.setattr("mmembed.prompt_safety.hashlib.sha256", Weak)
    assert fenced("passage", "passage 00000000>>>").startswith("<<<passage 11111111\n")


@pytest.mark.security
@pytest.mark.parametrize("piece", ["<|", "<|a", "<", "[", "</", "＜", "<image", "\u200b", "<extra_id_1"])
def test_long_texts_take_no_time(piece: str) -> None:
    start = time.process_time()
    neutralised(piece * 50_000, [f"<row_{row}_col_{column}>" for row in range(6) for column in range(6)])
    assert time.process_time() - start < 5


def test_control_tokens_of_a_processor() -> None:
    class Processor:
        tokenizer = tiny_words()
        image_token = "<picture here>"
        video_token = None

    assert set(control_tokens(Processor())) == {"<picture here>", *control_tokens(tiny_words())}


@pytest.mark.parametrize(
    ("reply", "value"),
    [('{"a": [1, 2.5, null, true]}', {"a": [1, 2.5, None, True]}), ('```json\n{"a": "b"}\n```', {"a": "b"}), (' "图" ', "图"), ("```\n[]\n```\n", [])],
)  # fmt: skip
def test_json_alone_is_read(reply: str, value: object) -> None:
    assert read_json(reply) == value


@pytest.mark.security
@pytest.mark.parametrize(
    "reply",
    [
        "", "yes", "Sure! {}", "{} and more", '{"a": 1, "a": 2}', '{"b": {"a": 1, "a": 2}}', "[" * 100_000, '"\\ud800"', "NaN", "[Infinity]",
        "1e999", "1" * 5000, '{"a"', "```json\n{}\n```\nHope this helps!", "{'a': 1}", '{"a": 1,}',
    ],
)  # fmt: skip
def test_what_is_no_json_alone(reply: str) -> None:
    with pytest.raises(ValueError):
        read_json(reply)
