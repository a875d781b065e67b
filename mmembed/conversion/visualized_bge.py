"""Visualized-BGE (`Visualized_base_en_v1.5.pth`, `Visualized_m3.pth`): its names and sizes → `VisualizedBGEModel`.

A flat state_dict of 16-bit tensors: a BERT or XLM-RoBERTa under `bge_*`, an EVA02-CLIP tower under `model_visual.visual`
and a projection. Of both towers some weights were never read; they are listed as dropped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
    CLIPImageProcessorPil,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
)

from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError
from mmembed.conversion.converting import Conversion
from mmembed.conversion.key_table import Rule, load_exactly, map_keys
from mmembed.models import DualEncoderProcessor, VisualizedBGEConfig, VisualizedBGEModel
from mmembed.models.visualized_bge.configuration_visualized_bge import EvaVisionConfig

_FAMILY = "visualized_bge"
_VISUAL = r"model_visual\.visual"
_BLOCK = rf"{_VISUAL}\.blocks\.(\d+)"
_WORDS, _POSITIONS = "bge_embeddings.word_embeddings.weight", "bge_embeddings.position_embeddings.weight"

RULES = [
    # the text encoder, whose names are those of transformers
    Rule(r"bge_embeddings\.(?:position_ids|token_type_ids)", reason="0, 1, 2, … or zeros, not a weight"),
    Rule(r"bge_embeddings\.(.+)", r"text_model.embeddings.\1"),
    Rule(r"bge_encoder\.(.+)", r"text_model.encoder.\1"),
    Rule(r"bge_pooler\..+", reason="BERT's pooler, which Visualized-BGE never reads: it pools the hidden states"),
    # the image tower
    Rule(rf"{_VISUAL}\.cls_token", "vision_model.class_token"),
    Rule(rf"{_VISUAL}\.pos_embed", "vision_model.position_embedding"),
    Rule(rf"{_VISUAL}\.patch_embed\.proj\.(weight|bias)", r"vision_model.patch_embedding.\1"),
    Rule(rf"{_VISUAL}\.rope\.freqs_(cos|sin)", r"vision_model.rope_\1"),
    Rule(rf"{_BLOCK}\.(norm[12])\.(weight|bias)", r"vision_model.blocks.\1.\2.\3"),
    Rule(rf"{_BLOCK}\.attn\.q_proj\.weight", r"vision_model.blocks.\1.attention.query.weight"),
    Rule(rf"{_BLOCK}\.attn\.k_proj\.weight", r"vision_model.blocks.\1.attention.key.weight"),
    Rule(rf"{_BLOCK}\.attn\.v_proj\.weight", r"vision_model.blocks.\1.attention.value.weight"),
    Rule(rf"{_BLOCK}\.attn\.q_bias", r"vision_model.blocks.\1.attention.query.bias"),
    Rule(rf"{_BLOCK}\.attn\.v_bias", r"vision_model.blocks.\1.attention.value.bias"),
    Rule(rf"{_BLOCK}\.attn\.inner_attn_ln\.(weight|bias)", r"vision_model.blocks.\1.attention.norm.\2"),
    Rule(rf"{_BLOCK}\.attn\.proj\.(weight|bias)", r"vision_model.blocks.\1.attention.output.\2"),
    Rule(rf"{_BLOCK}\.attn\.rope\.freqs_(?:cos|sin)", reason="the same tables as model_visual.visual.rope"),
    Rule(rf"{_BLOCK}\.mlp\.w1\.(weight|bias)", r"vision_model.blocks.\1.mlp.gate.\2"),
    Rule(rf"{_BLOCK}\.mlp\.w2\.(weight|bias)", r"vision_model.blocks.\1.mlp.up.\2"),
    Rule(rf"{_BLOCK}\.mlp\.ffn_ln\.(weight|bias)", r"vision_model.blocks.\1.mlp.norm.\2"),
    Rule(rf"{_BLOCK}\.mlp\.w3\.(weight|bias)", r"vision_model.blocks.\1.mlp.down.\2"),
    Rule(
        rf"{_VISUAL}\.norm\.(?:weight|bias)", reason="CLIP's final norm: Visualized-BGE reads the last block's output"
    ),
    Rule(rf"{_VISUAL}\.head\.(?:weight|bias)", reason="CLIP's projection, which Visualized-BGE never reads"),
    Rule(r"model_visual\.logit_scale", reason="CLIP's temperature; Visualized-BGE trains with a fixed one, .02"),
    # what joins them
    Rule(r"visual_proj\.(weight|bias)", r"visual_projection.\1"),
]

# (vocabulary, width) of the published text encoders → what their weights do not tell.
_PUBLISHED_TEXT: dict[tuple[int, int], dict[str, Any]] = {
    (30522, 768): {"model_type": "bert", "num_attention_heads": 12, "layer_norm_eps": 1e-12, "pad_token_id": 0},
    (250002, 1024): {"model_type": "xlm-roberta", "num_attention_heads": 16, "layer_norm_eps": 1e-5, "pad_token_id": 1},
}
_BERT_EMPTY_TEXT = {30522: [101, 102]}
# (width, patch size) of the published image towers → share of patches that training leaves out.
_PUBLISHED_PATCH_DROPOUT = {(768, 16): 0.5, (1024, 14): 0.0}
# Settings of the original's tower that are not implemented, as no published Visualized-BGE has them.
_FIXED_VISION = {
    "rope": True,
    "naiveswiglu": True,
    "subln": True,
    "qkv_bias": True,
    "postnorm": False,
    "ls_init_value": None,
    "global_average_pool": False,
    "drop_path_rate": 0,
}


def recognises(checkpoint: Checkpoint) -> bool:
    """Whether the keys are those of Visualized-BGE.

    Example:
        >>> recognises(Checkpoint(Path("a.pth"), {"bge_embeddings.LayerNorm.bias": torch.zeros(2)}))
        False
    """
    has_text = _WORDS in checkpoint.tensors
    return has_text and any(name.startswith("model_visual.visual.") for name in checkpoint.tensors)


def convert(
    checkpoint: Checkpoint, config: dict[str, Any] | None, tokenizer: str | os.PathLike[str] | None
) -> Conversion:
    """Make the model of a checkpoint.

    Args:
        checkpoint: Of Visualized-BGE.
        config: The original's configuration: `bge_config` of the text encoder (as in its `config.json`),
            `bge_model_type`, `eva` with `vision_cfg`, and optionally `sentence_pooling_method`, `normlized` and
            `empty_prompt_input_ids`. Visualized_base_en_v1.5 and Visualized_m3 need none.
        tokenizer: That of bge-base-en-v1.5 or bge-m3, which the checkpoint does not carry.

    Returns:
        The model and, with a tokenizer, its processor.

    Raises:
        ConversionError: If keys and configuration do not fit one another, or are not enough.
    """
    given = config or {}
    tensors = checkpoint.tensors
    _check_shared_tables(checkpoint)
    mapped = map_keys(tensors, RULES, family=_FAMILY)
    text = _text_config(tensors, given)
    vision = _vision_config(tensors, _section(_section(given, "eva"), "vision_cfg"))
    words = _tokenizer(tokenizer, text) if tokenizer is not None else None
    notes: list[str] = []
    model_config = VisualizedBGEConfig(
        text,
        vision,
        pooling=given.get("sentence_pooling_method", "cls"),
        normalize=bool(given.get("normlized", True)),
        empty_text_ids=_empty_text_ids(given, text, words, notes),
    )
    if not model_config.normalize:
        notes.append(
            "normlized is false: the model's vectors keep their length, but sentence-transformers' Normalize follows"
        )
    model = VisualizedBGEModel(model_config)
    load_exactly(model, mapped, family=_FAMILY)
    limit = model_config.max_text_length
    notes.append(
        f"texts are cut at {limit} tokens, so that they fit beside an image of {vision.num_patches}; the original cuts "
        "nothing and fails past its last position"
    )
    size = model_config.image_size
    if words is not None:
        processor = DualEncoderProcessor(words, image_size=size, resize="crop", resample=3, max_text_length=limit)
        return Conversion(model.eval(), mapped, processor, notes=notes)
    return Conversion(
        model.eval(),
        mapped,
        missing=[
            "a tokenizer: pass --tokenizer with that of bge-base-en-v1.5 or bge-m3 to get a folder that reads texts"
        ],
        notes=notes,
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
            image_mean=model_config.image_mean,
            image_std=model_config.image_std,
        ),
    )


def _check_shared_tables(checkpoint: Checkpoint) -> None:
    """Every block holds the tower's rotary tables once more; they may be dropped because they are the same."""
    for kind in ("cos", "sin"):
        table = checkpoint.tensors[f"model_visual.visual.rope.freqs_{kind}"]
        other = [
            name
            for name, tensor in checkpoint.tensors.items()
            if name.endswith(f".attn.rope.freqs_{kind}") and not torch.equal(tensor, table)
        ]
        if other:
            raise ConversionError(
                f"{checkpoint.path}: {other[0]} differs from model_visual.visual.rope.freqs_{kind}; Visualized-BGE has "
                "one table for all blocks. Nothing was written."
            )


# --- sizes ------------------------------------------------------------------------------------------------------


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, Mapping):
        raise ConversionError(f"config: {name} is a {type(section).__name__}, expected an object of settings.")
    return dict(section)


def _text_config(tensors: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> BertConfig | XLMRobertaConfig:
    vocab_size, width = tensors[_WORDS].shape
    found = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_hidden_layers": _count(tensors, "bge_encoder.layer."),
        "intermediate_size": len(tensors["bge_encoder.layer.0.intermediate.dense.weight"]),
        "max_position_embeddings": len(tensors[_POSITIONS]),
        "type_vocab_size": len(tensors["bge_embeddings.token_type_embeddings.weight"]),
    }
    settings = _section(given, "bge_config")
    if settings:
        kind = given.get("bge_model_type", settings.get("model_type"))
        if kind is None:
            raise ConversionError("config: bge_config needs bge_model_type beside it, 'bert' or 'xlm-roberta'.")
        settings = {name: value for name, value in settings.items() if name != "model_type"}
    elif (vocab_size, width) in _PUBLISHED_TEXT:
        settings = dict(_PUBLISHED_TEXT[vocab_size, width])
        kind = settings.pop("model_type")
    else:
        raise ConversionError(
            f"a text encoder of {vocab_size} tokens and width {width} is no published one "
            f"({', '.join(f'{v} tokens and width {w}' for v, w in _PUBLISHED_TEXT)}), and its number of heads is not in "
            "the weights: pass config with bge_config (the config.json of its BGE) and bge_model_type."
        )
    _check_sizes("bge_config", settings, found)
    if kind not in ("bert", "xlm-roberta"):
        raise ConversionError(f"config: bge_model_type={kind!r}; expected 'bert' or 'xlm-roberta'.")
    return (BertConfig if kind == "bert" else XLMRobertaConfig)(**{**settings, **found})


def _vision_config(tensors: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> EvaVisionConfig:
    width, _, patch, _ = tensors["model_visual.visual.patch_embed.proj.weight"].shape
    patches = tensors["model_visual.visual.pos_embed"].shape[1] - 1
    side = round(patches**0.5)
    head = tensors["model_visual.visual.rope.freqs_cos"].shape[-1]
    if side * side != patches or width % head:
        raise ConversionError(
            f"the image tower has {patches} patches and width {width} with rotary tables of width {head}; expected a "
            "square of patches and a width that the heads divide."
        )
    found = {"width": width, "layers": _count(tensors, "model_visual.visual.blocks."), "patch_size": patch}
    _check_sizes("eva.vision_cfg", given, {**found, "image_size": side * patch, "head_width": head})
    for name, value in _FIXED_VISION.items():
        if given.get(name, value) != value:
            raise ConversionError(
                f"config: eva.vision_cfg.{name}={given[name]!r} is not supported; Visualized-BGE's is {value!r}."
            )
    return EvaVisionConfig(
        hidden_size=width,
        num_hidden_layers=found["layers"],
        num_attention_heads=width // head,
        intermediate_size=len(tensors["model_visual.visual.blocks.0.mlp.w1.weight"]),
        image_size=side * patch,
        patch_size=patch,
        patch_dropout=float(
            given.get("patch_dropout", 0.0) if given else _PUBLISHED_PATCH_DROPOUT.get((width, patch), 0)
        ),
        rope_grid=given.get("pt_hw_seq_len", 16),
    )


def _check_sizes(section: str, given: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    wrong = [
        f"{name}={given[name]!r} instead of {value}" for name, value in found.items() if given.get(name, value) != value
    ]
    if wrong:
        raise ConversionError(
            f"config: {section} does not fit the checkpoint: {', '.join(wrong)}. Is it the checkpoint's own?"
        )


def _count(tensors: Mapping[str, torch.Tensor], prefix: str) -> int:
    numbers = {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    return len(numbers)


# --- texts ------------------------------------------------------------------------------------------------------


def _tokenizer(source: str | os.PathLike[str], text: BertConfig | XLMRobertaConfig) -> Any:
    path = Path(os.fspath(source))
    bert = text.model_type == "bert"
    try:
        if path.is_file() and path.suffix == ".json":
            names = (
                ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]") if bert else ("<s>", "</s>", "<pad>", "<unk>", "<mask>")
            )
            special = dict(zip(("cls_token", "sep_token", "pad_token", "unk_token", "mask_token"), names))
            words: Any = PreTrainedTokenizerFast(tokenizer_file=str(path), **special)
        elif path.is_file() and bert:
            words = BertTokenizer(str(path))
        elif path.is_file():
            raise ConversionError(
                f"{path} is no tokenizer of bge-m3 that can be read alone; pass its tokenizer.json, or the folder."
            )
        else:
            words = AutoTokenizer.from_pretrained(os.fspath(source))
    except ConversionError:
        raise
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise ConversionError(f"the tokenizer {source} cannot be read: {str(error).strip().splitlines()[0]}") from error
    if max(words.get_vocab().values()) >= text.vocab_size:
        raise ConversionError(
            f"the tokenizer {source} has {max(words.get_vocab().values()) + 1} tokens and the checkpoint {text.vocab_size}; "
            "published checkpoints take that of bge-base-en-v1.5 or bge-m3."
        )
    if words.pad_token_id != text.pad_token_id:
        raise ConversionError(
            f"the tokenizer {source} pads with {words.pad_token_id} and the text encoder with {text.pad_token_id}; is it "
            "the checkpoint's own?"
        )
    return words


def _empty_text_ids(
    given: Mapping[str, Any], text: BertConfig | XLMRobertaConfig, words: Any, notes: list[str]
) -> list[int]:
    """What the original makes of the empty string, beside which it puts an image that comes alone."""
    stated = given.get("empty_prompt_input_ids")
    made = words("")["input_ids"] if words is not None else None
    if stated is not None and made is not None and list(stated) != made:
        notes.append(f"the empty text is {list(stated)} as the configuration says, not the tokenizer's {made}")
    known = (
        _BERT_EMPTY_TEXT.get(text.vocab_size) if text.model_type == "bert" else [text.bos_token_id, text.eos_token_id]
    )
    ids = stated if stated is not None else made or known
    if ids is None:
        raise ConversionError(
            f"the token ids of the empty text are not known for a vocabulary of {text.vocab_size}: pass a tokenizer, or "
            "empty_prompt_input_ids in config."
        )
    return list(ids)
