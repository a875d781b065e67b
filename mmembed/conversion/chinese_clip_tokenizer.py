"""The tokenizer of Chinese-CLIP: BERT's word pieces over a given vocabulary, lower-cased, as cn_clip reads them."""

from __future__ import annotations

import os
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mmembed.conversion.checkpoint_reading import ConversionError

_SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def bert_tokenizer(
    source: str | os.PathLike[str], *, vocab_size: int, max_length: int, straight_quotes: bool = False
) -> PreTrainedTokenizerFast:
    """The word pieces of a vocabulary, whatever a tokenizer that comes with it does otherwise.

    Texts are lower-cased and lose their accents, Chinese characters are words of their own, a word of more than 200
    characters is unknown, and a text that spells out "[SEP]" is read as text: all as cn_clip does it. (The tokenizer of
    bert-base-chinese on the Hub, with the same vocabulary, does not lower-case.)

    Args:
        source: `vocab.txt`, `tokenizer.json`, or a folder or Hub name of a BERT tokenizer.
        vocab_size: Tokens that the model knows.
        max_length: Tokens at which a text is cut, [CLS] and [SEP] among them.
        straight_quotes: Read curly double quotes as straight ones, as cn_clip's dataset code does.

    Returns:
        The tokenizer.

    Raises:
        ConversionError: If there is no such vocabulary, or it is not the model's.

    Example:
        >>> path = getfixture("tmp_path") / "vocab.txt"
        >>> _ = path.write_text("[PAD]\\n[UNK]\\n[CLS]\\n[SEP]\\n红\\ncafe\\n##s\\n", encoding="utf-8")
        >>> bert_tokenizer(path, vocab_size=7, max_length=8)("红Cafés")["input_ids"]
        [2, 4, 5, 6, 3]
    """
    vocabulary = _vocabulary(source)
    lacking = [token for token in _SPECIAL.values() if token not in vocabulary]
    if lacking or vocabulary["[PAD]"] != 0:
        found = f"no {', '.join(lacking)}" if lacking else f"[PAD] at {vocabulary['[PAD]']} instead of 0"
        raise ConversionError(f"{source}: its vocabulary of {len(vocabulary)} tokens has {found}; is it BERT's?")
    if max(vocabulary.values()) >= vocab_size:
        raise ConversionError(
            f"{source}: its vocabulary has {max(vocabulary.values()) + 1} tokens and the checkpoint's {vocab_size}; "
            "cn_clip's is the vocab.txt of bert-base-chinese (21128 tokens)."
        )
    words = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=200))
    bert = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True)
    quotes = [normalizers.Replace("“", '"'), normalizers.Replace("”", '"')]
    words.normalizer = normalizers.Sequence([*quotes, bert]) if straight_quotes else bert
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    special = {**_SPECIAL, **({"mask_token": "[MASK]"} if "[MASK]" in vocabulary else {})}
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=max_length,
        split_special_tokens=True,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **special,
    )


def _vocabulary(source: str | os.PathLike[str]) -> dict[str, int]:
    path = Path(source)
    if path.is_dir() and (path / "vocab.txt").is_file():
        path = path / "vocab.txt"
    if path.is_file() and path.suffix == ".txt":
        try:
            # Only "\n" ends a line: splitlines() would cut at the separators that are tokens of this vocabulary.
            lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise ConversionError(f"{path} is no UTF-8 text, expected one token a line: {error}") from error
        return {line.strip(): number for number, line in enumerate(lines)}
    try:
        if path.is_file():
            backend = Tokenizer.from_file(str(path))
        else:
            backend = AutoTokenizer.from_pretrained(os.fspath(source)).backend_tokenizer
    except Exception as error:  # the tokenizers library raises bare exceptions
        said = str(error).strip().split("\n")[0]
        raise ConversionError(
            f"{source} is no BERT tokenizer; pass a vocab.txt, or a folder or name of a tokenizer: {said}"
        ) from error
    if not isinstance(backend.model, models.WordPiece):
        raise ConversionError(
            f"{source} holds a tokenizer of the kind {type(backend.model).__name__}; Chinese-CLIP reads WordPiece."
        )
    return backend.get_vocab()
