"""A new dual encoder: small and untrained with a vocabulary of its own, or from two trained towers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ResNetConfig,
)

from mmembed.models import DualEncoderConfig, DualEncoderModel, DualEncoderProcessor
from mmembed.models.loading import sentence_transformer

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def build_dual_encoder(
    texts: Iterable[str],
    *,
    vocab_size: int = 4096,
    max_text_length: int = 48,
    text_hidden_size: int = 128,
    text_layers: int = 2,
    text_heads: int = 4,
    text_intermediate_size: int | None = None,
    text_dropout: float = 0.1,
    image_size: int = 96,
    image_embedding_size: int = 32,
    image_hidden_sizes: Sequence[int] = (32, 64, 128, 256),
    image_depths: Sequence[int] = (1, 1, 1, 1),
    resize: str = "squash",
    seed: int = 0,
    **config: Any,
) -> SentenceTransformer:
    """A small dual encoder with random weights: a ResNet, a BERT, and a byte-pair vocabulary learnt from the texts.

    Args:
        texts: The training texts; their words make the vocabulary. Chinese characters are words of their own.
        vocab_size: Most tokens in the vocabulary.
        max_text_length: Tokens at which a text is cut.
        text_hidden_size: Width of the BERT.
        text_layers: Its layers.
        text_heads: Its attention heads.
        text_intermediate_size: Width of its feed-forward layers; 4 times the width when None.
        text_dropout: Its dropout probability.
        image_size: Height and width of images in pixels.
        image_embedding_size: Channels after the ResNet's stem.
        image_hidden_sizes: Channels of its stages.
        image_depths: Blocks of its stages.
        resize: "squash" or "crop".
        seed: Of the random weights.
        **config: Further settings of `DualEncoderConfig`.

    Returns:
        The untrained model.

    Example:
        >>> model = build_dual_encoder(["red mug", "blue lamp"], image_size=32, text_hidden_size=16, text_layers=1,
        ...     image_embedding_size=8, image_hidden_sizes=[8, 16], image_depths=[1, 1], projection_dim=8)
        >>> model.encode([{"text": "red lamp"}]).shape
        (1, 8)
    """
    tokenizer, text_config = _new_text_tower(
        texts,
        vocab_size,
        max_text_length,
        text_hidden_size,
        text_layers,
        text_heads,
        text_intermediate_size,
        text_dropout,
    )
    vision_config = ResNetConfig(
        embedding_size=image_embedding_size,
        hidden_sizes=list(image_hidden_sizes),
        depths=list(image_depths),
        layer_type="basic",
    )
    settings = {"projection_dim": 128, **config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DualEncoderModel(
            DualEncoderConfig(
                text_config, vision_config, image_size=image_size, max_text_length=max_text_length, **settings
            )
        )
    processor = DualEncoderProcessor(tokenizer, image_size=image_size, resize=resize, max_text_length=max_text_length)
    return sentence_transformer(model.eval(), processor)


def dual_encoder_with_new_text_tower(
    texts: Iterable[str],
    vision: str,
    *,
    vocab_size: int = 8192,
    max_text_length: int = 48,
    text_hidden_size: int = 256,
    text_layers: int = 3,
    text_heads: int = 4,
    text_intermediate_size: int | None = None,
    text_dropout: float = 0.1,
    resize: str | None = None,
    seed: int = 0,
    **config: Any,
) -> SentenceTransformer:
    """A dual encoder of a trained vision tower and an untrained BERT, whose vocabulary is learnt from the texts.

    For languages that no text tower at hand knows.

    Args:
        texts: The training texts, in any number of languages.
        vision: Folder or name of a vision model.
        vocab_size: Most tokens in the vocabulary.
        max_text_length: Tokens at which a text is cut.
        text_hidden_size: Width of the BERT.
        text_layers: Its layers.
        text_heads: Its attention heads.
        text_intermediate_size: Width of its feed-forward layers; 4 times the width when None.
        text_dropout: Its dropout probability.
        resize: "squash" or "crop"; the vision tower's own when None.
        seed: Of the new weights.
        **config: Further settings of `DualEncoderConfig`.

    Returns:
        The model.

    Example:
        >>> dual_encoder_with_new_text_tower(["红色衬衫", "red shirt"], "google/mobilenet_v2_1.0_224")
        ... # doctest: +SKIP
    """
    tokenizer, text_config = _new_text_tower(
        texts,
        vocab_size,
        max_text_length,
        text_hidden_size,
        text_layers,
        text_heads,
        text_intermediate_size,
        text_dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_model = AutoModel.from_config(text_config)
    return _from_towers(text_model, tokenizer, vision, resize, seed, {"max_text_length": max_text_length, **config})


def _new_text_tower(
    texts: Iterable[str],
    vocab_size: int,
    max_length: int,
    width: int,
    layers: int,
    heads: int,
    intermediate: int | None,
    dropout: float,
) -> tuple[PreTrainedTokenizerFast, BertConfig]:
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, max_length=max_length)
    return tokenizer, BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate or 4 * width,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=max_length,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
    )


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A lower-casing byte-pair tokenizer whose vocabulary is learnt from the texts; the same texts give the same one.

    Args:
        texts: Any language; Chinese characters are words of their own.
        vocab_size: Most tokens in the vocabulary, the five special ones included.
        max_length: Tokens at which a text is cut.

    Returns:
        A tokenizer that frames a text in [CLS] and [SEP].

    Raises:
        ValueError: If there is no text.

    Example:
        >>> tokenizer = train_tokenizer(["Red mug", "红色杯子"], vocab_size=99, max_length=16)
        >>> tokenizer.tokenize("red 红杯")
        ['▁red', '▁红', '▁杯']
    """
    kept = [text for text in texts if text and text.strip()]
    if not kept:
        raise ValueError("a vocabulary is learnt from texts, and there is none.")
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, handle_chinese_chars=True, strip_accents=False)
    words = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace()]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer.decoder = decoders.Metaspace()
    # Not WordPiece: its trainer numbers continuation pieces in the order of a hash map, anew in every process.
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(kept, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


def dual_encoder_from_towers(
    text: str, vision: str, *, resize: str | None = None, seed: int = 0, **config: Any
) -> SentenceTransformer:
    """A dual encoder of two trained towers; the projections and the fusion head are new.

    Unless they are given, the image's size, scaling and cropping are those of the vision tower's image processor, the
    text's pooling and length those of the text tower if it is a sentence-transformers folder.

    Args:
        text: Folder or name of a text model.
        vision: Folder or name of a vision model; the same name twice for one CLIP-like model.
        resize: "squash" or "crop".
        seed: Of the new weights.
        **config: Settings of `DualEncoderConfig`.

    Returns:
        The model.

    Example:
        >>> dual_encoder_from_towers("sentence-transformers/all-MiniLM-L6-v2", "google/mobilenet_v2_1.0_224")
        ... # doctest: +SKIP
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(text)
    settings = {**_saved_text_settings(Path(text)), **config}
    settings.setdefault("max_text_length", min(tokenizer.model_max_length, 128))
    return _from_towers(text, tokenizer, vision, resize, seed, settings)


def _from_towers(
    text: str | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vision: str,
    resize: str | None,
    seed: int,
    config: dict[str, Any],
) -> SentenceTransformer:
    images = AutoImageProcessor.from_pretrained(vision, use_fast=False)
    size, edge = _image_sizes(images)
    own = {"image_size": size, "image_mean": list(images.image_mean), "image_std": list(images.image_std)}
    settings = {**own, **config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DualEncoderModel.from_towers(text, vision, **settings)
    processor = DualEncoderProcessor(
        tokenizer,
        image_size=settings["image_size"],
        resize=resize or ("crop" if getattr(images, "do_center_crop", False) else "squash"),
        shortest_edge=edge * settings["image_size"] // size if edge is not None else None,
        resample=int(images.resample),
        max_text_length=settings["max_text_length"],
    )
    return sentence_transformer(model, processor)


def _image_sizes(images: Any) -> tuple[int, int | None]:
    """Side of the square that comes out, and the length to which the short side is scaled before."""
    size = dict(images.size)
    edge = size.get("shortest_edge")
    if getattr(images, "do_center_crop", False):
        crop = dict(images.crop_size)
        return min(crop["height"], crop["width"]), edge
    return edge or min(size["height"], size["width"]), None


def _saved_text_settings(folder: Path) -> dict[str, Any]:
    """Pooling and length of a sentence-transformers folder."""
    settings: dict[str, Any] = {}
    pooling, length = folder / "1_Pooling" / "config.json", folder / "sentence_bert_config.json"
    if pooling.is_file():
        saved = json.loads(pooling.read_text(encoding="utf-8"))
        modes = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
        found = [
            name
            for name, key in modes.items()
            if saved.get(f"pooling_mode_{key}") or saved.get("pooling_mode") in (name, key.removesuffix("_tokens"))
        ]
        if found:
            settings["text_pooling"] = found[0]
    if length.is_file():
        limit = json.loads(length.read_text(encoding="utf-8")).get("max_seq_length")
        if limit:
            settings["max_text_length"] = limit
    return settings
