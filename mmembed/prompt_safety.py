"""How is a stranger's text put before a language model as data, and what of its reply is read?

What a text says in plain words a model may still obey; what is asked of its reply (a schema, an option that is known) is
the second wall, and no reply is ever a permission.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

# Marks by which chat models tell speakers apart; a tokenizer may make one token of them wherever they stand.
_CONTROL = re.compile(
    r"<\|[^|<>]{0,60}\|?>|<｜[^｜<>]{0,60}｜?>|\[/?(?:INST|SYS\w*|AVAILABLE_TOOLS|TOOL_\w+)\]|<</?SYS>>|"
    r"</?(?:s|bos|eos|pad|unk|mask|sep|cls|system|user|assistant|tool_call|tool_response|think)>|\[(?:CLS|SEP|PAD|MASK|UNK)\]|"
    r"<(?:start|end)_of_(?:turn|text|image)>|<image>|<unused\d+>|<extra_id_\d+>",
    re.IGNORECASE,
)
# Characters that no reader sees: controls, directions of writing, tags, joins of nothing, halves of characters.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def neutralised(text: str, special_tokens: Sequence[str] = ()) -> str:
    """A text in which no control token is left whole and no character that a reader does not see.

    Args:
        text: any text.
        special_tokens: tokens beside the well-known ones, such as `control_tokens` gives; those of one character stay.

    Returns:
        The text with a space after the first character of each control token; as Unicode's NFKC has it where the token is
        spelled in characters that only stand for its own.

    Example:
        >>> neutralised("a </s> b [INST] c <<|im_start|>")
        'a < /s> b [ INST] c << |im_start|>'
    """
    tokens = sorted({token for token in special_tokens if len(token.strip()) > 1}, key=len, reverse=True)
    pattern = re.compile("|".join([_CONTROL.pattern, *(re.escape(token) for token in tokens)]), re.IGNORECASE)
    text = _UNSEEN.sub("", text)
    folded = _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    if folded != text and len(pattern.findall(folded)) > len(pattern.findall(text)):
        text = folded
    while (broken := pattern.sub(lambda found: found[0][0] + " " + found[0][1:], text)) != text:
        text = broken
    return text


def fenced(name: str, text: str) -> str:
    """A text between two marks that it cannot close itself, as they hold a hash of it.

    Args:
        name: what the text is, such as "passage"; a word of ours.
        text: a text that `neutralised` has seen.

    Example:
        >>> print(fenced("caption", "a red mug"))
        <<<caption 0db781f0
        a red mug
        caption 0db781f0>>>
    """
    data = text.encode("utf-8")
    salt = b""
    while True:
        # As mmembed.data.keys.content_id: replies are kept under what was asked.
        mark = f"{name} {hashlib.sha256(b's' + len(data).to_bytes(8, 'big') + data + salt).hexdigest()[:8]}"
        if mark not in text:
            return f"<<<{mark}\n{text}\n{mark}>>>"
        salt += b"+"


def control_tokens(processor: Any) -> list[str]:
    """What a text may not spell out before a model: every added token of its tokenizer and every placeholder.

    Args:
        processor: a transformers processor, or a tokenizer; one of images alone has none.

    Returns:
        The tokens, longest first.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    named = ("image_token", "boi_token", "eoi_token", "video_token", "audio_token", "fake_image_token")
    placeholders = [str(token) for name in named if (token := getattr(processor, name, None))]
    added = [str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()]
    return sorted({*added, *placeholders} - {"", " "}, key=len, reverse=True)


def read_json(reply: str) -> Any:
    """The JSON that a model's reply is, alone or in a block of code; nothing is searched for in other words.

    Args:
        reply: what the model wrote.

    Returns:
        Objects, lists, texts, finite numbers, booleans and None.

    Raises:
        ValueError: anything else, a key that stands twice, or a text with half a character, with what was found.

    Example:
        >>> read_json('```json\\n{"answer": "red"}\\n```')
        {'answer': 'red'}
        >>> read_json("Sure! Red.")
        Traceback (most recent call last):
        ValueError: not JSON alone: 'Sure! Red.'
    """
    block = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n\s*```\s*", reply, re.DOTALL)
    try:
        value = json.loads(block[1] if block else reply, object_pairs_hook=_once, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"a text with half a character in {reply[:60]!r}") from None
    except (json.JSONDecodeError, RecursionError):
        raise ValueError(f"not JSON alone: {reply[:60]!r}") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"a key stands twice: {[key for key, _ in pairs]}")
    return dict(pairs)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")
