"""The tokenizer of ruCLIP: YouTokenToMe's plain-text `bpe.model` → a fast tokenizer that gives the same ids."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mmembed.conversion.checkpoint_reading import ConversionError

_SPACE = "▁"  # U+2581, the character that begins each word
# What C's isspace() knows, and no other space of Unicode: a no-break space is a character of its word.
_BETWEEN_WORDS = r"[\t\n\x0b\x0c\r ▁]+"
_CASED = r"[\p{Lu}\p{Ll}\p{Lt}]"
_SPECIAL = {"unk_token": "<UNK>", "pad_token": "<PAD>", "bos_token": "<BOS>", "eos_token": "<EOS>"}


class BpeModel(NamedTuple):
    """A `bpe.model` as read.

    Attributes:
        vocabulary: Token → id, special tokens included.
        merges: Pairs of tokens, first the one that is merged first.
        special: Argument name (unk_token, …) → id.
    """

    vocabulary: dict[str, int]
    merges: list[tuple[str, str]]
    special: dict[str, int]


def read_bpe_model(path: str | os.PathLike[str]) -> BpeModel:
    """Read YouTokenToMe's text format.

    Its first line counts characters and merges; a line "codepoint id" for each character and a line "left right new", all
    ids, for each merge follow; the last line has the ids of the unknown, padding, begin and end token.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        ConversionError: If it is not of this format, with the line.

    Example:
        >>> path = getfixture("tmp_path") / "bpe.model"
        >>> _ = path.write_text("2 1\\n9601 4\\n1072 5\\n4 5 6\\n1 0 2 3\\n")
        >>> read_bpe_model(path).merges
        [('▁', 'а')]
    """
    rows = _rows(Path(path))
    if len(rows[0]) != 2:
        raise ConversionError(f"{path}:1: expected the numbers of characters and of merges, got {rows[0]}.")
    characters, merges = rows[0]
    if min(characters, merges) < 0 or len(rows) != characters + merges + 2:
        raise ConversionError(
            f"{path} has {len(rows)} lines where its first one announces {characters} characters and {merges} merges."
        )
    names: dict[int, str] = {}
    pairs = []
    for number, row in enumerate(rows[1:-1], start=2):
        is_merge = number > characters + 1
        if len(row) != (3 if is_merge else 2) or (is_merge and not {row[0], row[1]} <= names.keys()):
            what = '"left right new" with ids of lines above' if is_merge else '"codepoint id"'
            raise ConversionError(f"{path}:{number}: expected {what}, got {row}.")
        if not is_merge and not 0 <= row[0] < 0x110000:
            raise ConversionError(f"{path}:{number}: {row[0]} is no code point.")
        if row[-1] in names:
            raise ConversionError(f"{path}:{number}: id {row[-1]} is that of {names[row[-1]]!r} already.")
        if is_merge:
            pairs.append((names[row[0]], names[row[1]]))
        names[row[-1]] = "".join(pairs[-1]) if is_merge else chr(row[0])
    if len(rows[-1]) != 4:
        raise ConversionError(f"{path}:{len(rows)}: expected the ids of four special tokens, got {rows[-1]}.")
    special = dict(zip(_SPECIAL, rows[-1], strict=True))
    if _SPACE not in names.values():
        raise ConversionError(f"{path} has no character {ord(_SPACE)}, which begins each word.")
    everything = [*names.items(), *((special[name], token) for name, token in _SPECIAL.items())]
    for position, what in ((0, "id"), (1, "token")):
        twice = [key for key, times in Counter(pair[position] for pair in everything).items() if times > 1]
        if twice:
            # A merge leads to a token by its spelling in the tokenizers library, by its id in YouTokenToMe.
            raise ConversionError(
                f"{path}: the {what} {twice[0]!r} stands for two; no fast tokenizer can be made of it."
            )
    return BpeModel({token: number for number, token in everything}, pairs, special)


def _rows(path: Path) -> list[list[int]]:
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path} cannot be read as a bpe.model of YouTokenToMe: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = [int(value) for value in line.split()]
        except ValueError as error:
            raise ConversionError(f"{path}:{number}: expected whole numbers, got {line[:60]!r}.") from error
        if row:
            rows.append(row)
        elif any(rest.strip() for rest in lines[number:]):
            raise ConversionError(f"{path}:{number}: an empty line.")
    if not rows:
        raise ConversionError(f"{path} is empty.")
    return rows


def ruclip_tokenizer(path: str | os.PathLike[str], *, context_length: int) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a `bpe.model`, with the ids of ruCLIP's processor.

    A text is lower-cased and cut at white space and "▁"; each word begins with "▁"; neighbouring characters that the model
    does not know are one <UNK>, which never merges; the pair of the earliest merge is merged first, the left one of two; the
    ids are cut at `context_length` less two and framed by <BOS> and <EOS>. A text that spells out "<EOS>" is read as text.

    Args:
        path: The `bpe.model`.
        context_length: Tokens at which a text is cut, <BOS> and <EOS> among them.

    Returns:
        The tokenizer.

    Raises:
        ConversionError: If the file is not of this format.

    Example:
        >>> path = getfixture("tmp_path") / "bpe.model"
        >>> _ = path.write_text("2 1\\n9601 4\\n1072 5\\n4 5 6\\n1 0 2 3\\n")
        >>> ruclip_tokenizer(path, context_length=8)("А аa!")["input_ids"]
        [2, 6, 6, 1, 3]
    """
    vocabulary, merges, special = read_bpe_model(path)
    unknown = _SPECIAL["unk_token"]
    words = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True))
    # Python lower-cases the sigma that ends a word to another letter than the library, which goes by characters.
    last_sigma = normalizers.Replace(Regex(rf"(?<={_CASED})Σ(?!{_CASED})"), "ς")
    words.normalizer = normalizers.Sequence([last_sigma, normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_BETWEEN_WORDS), behavior="removed"),
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always", split=False),
        ]
    )
    words.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    begin, end = _SPECIAL["bos_token"], _SPECIAL["eos_token"]
    words.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} {begin} $B {end}",
        special_tokens=[(begin, special["bos_token"]), (end, special["eos_token"])],
    )
    tokens = {name: AddedToken(token, special=True, normalized=False) for name, token in _SPECIAL.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=context_length,
        split_special_tokens=True,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        **tokens,
    )
