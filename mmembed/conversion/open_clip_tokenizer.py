"""How open_clip cleans and tokenizes a text, kept in a tokenizer that cleans by itself: no step is left to whoever calls it."""

from __future__ import annotations

import gzip
import os
import unicodedata
from pathlib import Path

from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mmembed.conversion.checkpoint_reading import ConversionError

_LARGEST = 2**26  # bytes of a file of merges; OpenAI's has 3 MB
_BYTES = 256
_START, _END = "<|startoftext|>", "<|endoftext|>"
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&#x27;": "'", "&apos;": "'", "&nbsp;": " "}
_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "ſt", "ﬆ": "st", "Ĳ": "IJ", "ĳ": "ij"}
# Full-width and half-width forms, one by one: NFKC as a whole would turn "½" into "1⁄2" as well.
_WIDTHS = {
    form: text for form in map(chr, range(0xFF01, 0xFFF0)) if (text := unicodedata.normalize("NFKC", form)) != form
}
_PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^`{|}~]"  # Python's string.punctuation but for the underscore


def cleaning(clean: str) -> list[normalizers.Normalizer]:
    """What open_clip does to a text before its tokenizer sees it, as steps of the tokenizer itself.

    The common HTML entities are resolved, typographic quotes straightened, ligatures spelt out, full-width characters made
    ordinary ones, white space single. Not done, for want of such steps: mojibake is not repaired, and rarer entities stay.

    Args:
        clean: "lower" (CLIP), "canonicalize" (SigLIP: lower-cased, without punctuation) or "whitespace".

    Returns:
        The steps.

    Raises:
        ConversionError: If it is none of these.

    Example:
        >>> normalizers.Sequence(cleaning("canonicalize")).normalize_str("Blue Jeans &amp; White T-Shirt!!")
        'blue jeans white tshirt'
    """
    if clean not in ("lower", "canonicalize", "whitespace"):
        raise ConversionError(
            f"text cleaning {clean!r} is not known; open_clip has lower, canonicalize and whitespace."
        )
    # Twice, as the original unescapes twice: "&amp;amp;" is "&".
    replaced = [("&amp;", "&"), ("&amp;", "&"), *_ENTITIES.items(), *_LIGATURES.items(), *_WIDTHS.items()]
    steps: list[normalizers.Normalizer] = [normalizers.Replace(old, new) for old, new in replaced]
    steps += [normalizers.Replace(Regex("[‘’‚‛]"), "'"), normalizers.Replace(Regex("[“”„‟]"), '"'), normalizers.NFC()]
    if clean == "canonicalize":
        steps += [normalizers.Replace("_", " "), normalizers.Replace(Regex(_PUNCTUATION), "")]
    if clean != "whitespace":
        steps += [normalizers.Lowercase()]
    return [*steps, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]


def read_tokenizer(
    source: str | os.PathLike[str], *, clean: str, length: int, vocab_size: int, pad_id: int | None, end_id: int | None
) -> PreTrainedTokenizerBase:
    """A tokenizer that gives the ids that open_clip gives.

    Args:
        source: Folder or Hub name of a tokenizer, a `tokenizer.json`, or OpenAI's merges (`bpe_simple_vocab_16e6.txt`,
            also with .gz).
        clean: As in `cleaning`.
        length: Tokens at which a text is cut.
        vocab_size: Tokens that the model knows.
        pad_id: Token that pads; None leaves the tokenizer's own.
        end_id: Token that ends a text, where the model pools there; None where it need not be checked.

    Returns:
        The tokenizer. A slow one, which has no steps of its own, is left as it is: SigLIP's in transformers cleans itself.

    Raises:
        ConversionError: If there is no such tokenizer, or it is not the model's.
    """
    read = _read(source, vocab_size)
    if len(read) > vocab_size:
        raise ConversionError(
            f"the tokenizer {source} has {len(read)} tokens, the model {vocab_size}; it is another model's."
        )
    if end_id is not None and read.eos_token_id != end_id:
        raise ConversionError(
            f"the tokenizer {source} ends a text with token {read.eos_token_id}, the model reads it at {end_id}; it is "
            "another model's."
        )
    if pad_id is not None:
        pad = read.convert_ids_to_tokens(pad_id)
        if pad is None:
            raise ConversionError(
                f"the tokenizer {source} has no token {pad_id}, with which the model's texts are padded."
            )
    else:
        pad = read.pad_token or read.eos_token
    if not read.is_fast:
        read.pad_token, read.model_max_length = pad, length
        return read
    backend = read.backend_tokenizer
    own = [backend.normalizer] if backend.normalizer is not None else []
    backend.normalizer = normalizers.Sequence([*cleaning(clean), *own])
    special = {name: value for name, value in read.special_tokens_map.items() if isinstance(value, str)}
    # By this name the file is read as it is; a class of transformers' own would put its own steps in their place.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{**special, "pad_token": pad},
        model_max_length=length,
        padding_side="right",
        truncation_side="right",
        # Cleaning leaves no "</s>" in a text; without it, a text could spell out a control token.
        split_special_tokens=clean == "canonicalize",
    )


def _read(source: str | os.PathLike[str], vocab_size: int) -> PreTrainedTokenizerBase:
    path = Path(source)
    if path.is_file() and path.suffix in (".txt", ".gz"):
        return _from_merges(path, vocab_size)
    try:
        if path.is_file():
            return _named(PreTrainedTokenizerFast(tokenizer_file=str(path)))
        return AutoTokenizer.from_pretrained(os.fspath(source), local_files_only=path.is_dir())
    except Exception as error:  # the Rust library raises plain exceptions
        raise ConversionError(f"no tokenizer can be read from {source}: {type(error).__name__}: {error}") from error


def _named(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """With the special tokens that a bare tokenizer.json does not name."""
    known = tokenizer.get_vocab()
    for start, end in ((_START, _END), (None, "</s>"), ("<bos>", "<eos>")):
        if end in known:
            tokenizer.eos_token = end
            if start in known:
                tokenizer.bos_token = start
            break
    unknown = next((token for token in ("<unk>", tokenizer.eos_token) if token in known), None)
    if unknown is not None:
        tokenizer.unk_token = unknown
    return tokenizer


def _from_merges(path: Path, vocab_size: int) -> PreTrainedTokenizerBase:
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
    try:
        with opened as file:
            lines = file.read(_LARGEST).decode("utf-8").split("\n")[1:]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path} cannot be read as a file of merges: {error}") from error
    count = vocab_size - 2 * _BYTES - 2
    merges = [tuple(line.split()) for line in lines[: max(count, 0)]]
    if count < 0 or len(merges) < count or any(len(merge) != 2 for merge in merges):
        raise ConversionError(f"{path} has not the {max(count, 0)} merges that a vocabulary of {vocab_size} needs.")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), _START, _END]
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges)  # type: ignore[arg-type]  # pairs, as the tokenizers library takes them
