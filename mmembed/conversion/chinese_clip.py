"""Chinese-CLIP (cn_clip): its ViT checkpoints → transformers' ChineseCLIPModel, its RN50 → our ChineseCLIPResNetModel.

All five published sizes are read from the weights alone. For others, `config` is cn_clip's own `model_info` (the vision
and the text JSON merged), which tells the number of heads. Three more of its keys change the result:

- `image_resolution`, where it is not the checkpoint's: the position embedding of a ViT is resized as cn_clip does it,
  bicubic with aligned corners.
- `official_fp16_rounding` (default false): cn_clip's `load_from_name` builds the model in half precision before it loads
  the weights, so that on a CPU most of them have been rounded through it. True rounds the same ones.
- `straight_quotes` (default false): the dataset code of cn_clip, but not its `tokenize`, turns curly double quotes into
  straight ones before it reads a text. True makes the tokenizer do it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from transformers import (
    BertConfig,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessorPil,
    ChineseCLIPModel,
    ChineseCLIPProcessor,
    PreTrainedModel,
)

from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError
from mmembed.conversion.chinese_clip_tokenizer import bert_tokenizer
from mmembed.conversion.converting import Conversion
from mmembed.conversion.key_table import Rule, load_exactly, map_keys, split_in_three, transposed
from mmembed.conversion.openai_blocks import VISION_RULES
from mmembed.models import ChineseCLIPResNetConfig, ChineseCLIPResNetModel, DualEncoderProcessor

FAMILY = "chinese_clip"
CONTEXT = 52  # tokens of a text, [CLS] and [SEP] among them
_WORDS = "bert.embeddings.word_embeddings.weight"

_LAYER, _TARGET = r"bert\.encoder\.layer\.(\d+)", r"text_model.encoder.layer.\1"
_TEXT_RULES = [
    Rule(r"bert\.pooler\..*", reason="never trained: a text's vector comes from the hidden state of [CLS]"),
    Rule(r"bert\.embeddings\.position_ids", reason="0, 1, 2, …, which the model counts itself"),
    Rule(r"bert\.embeddings\.(.*)", r"text_model.embeddings.\1"),
    Rule(rf"{_LAYER}\.attention\.self\.(query|key|value)\.(weight|bias)", rf"{_TARGET}.attention.self.\2.\3"),
    Rule(rf"{_LAYER}\.attention\.output\.(.*)", rf"{_TARGET}.attention.output.\2"),
    Rule(rf"{_LAYER}\.(intermediate|output)\.(.*)", rf"{_TARGET}.\2.\3"),
    Rule(r"text_projection", "text_projection.weight", transposed),
    # the layout of flash attention
    Rule(
        rf"{_LAYER}\.attention\.self\.Wqkv\.(weight|bias)",
        tuple(rf"{_TARGET}.attention.self.{name}.\2" for name in ("query", "key", "value")),
        split_in_three,
    ),
    Rule(rf"{_LAYER}\.attention\.self\.out_proj\.(weight|bias)", rf"{_TARGET}.attention.output.dense.\2"),
]
VIT_RULES = [
    *_TEXT_RULES,
    *VISION_RULES,
    Rule(r"logit_scale", "logit_scale"),
    Rule(  # the layout of flash attention
        r"visual\.transformer\.resblocks\.(\d+)\.attn\.Wqkv\.(weight|bias)",
        tuple(rf"vision_model.encoder.layers.\1.self_attn.{name}_proj.\2" for name in "qkv"),
        split_in_three,
    ),
]
RESNET_RULES = [
    *_TEXT_RULES,
    Rule(r"visual\.(layer\d\.\d+)\.downsample\.0\.weight", r"vision_model.\1.shortcut.conv.weight"),
    Rule(r"visual\.(layer\d\.\d+)\.downsample\.1\.(.*)", r"vision_model.\1.shortcut.norm.\2"),
    Rule(r"visual\.(.*)", r"vision_model.\1"),
    Rule(r"logit_scale", "logit_scale", lambda scale: scale.reshape(1)),
]

# Settings that no shape tells.
_OPTIONS = ("vision_head_width", "text_num_attention_heads", "official_fp16_rounding", "straight_quotes")
# What cn_clip's half precision leaves alone.
_NOT_ROUNDED = re.compile(
    r"logit_scale|visual\.(class_embedding|(attnpool\.)?positional_embedding|(.*\.)?(ln_\w+|bn\d|downsample\.1)\..*)"
)


def recognises(checkpoint: Checkpoint) -> bool:
    """Whether it has a BERT, a projection of it, and OpenAI's vision tower."""
    return {_WORDS, "text_projection", "visual.conv1.weight"} <= set(checkpoint.tensors)


def convert(
    checkpoint: Checkpoint, config: dict[str, Any] | None, tokenizer: str | os.PathLike[str] | None
) -> Conversion:
    """The model, its processor, and what became of each key.

    Args:
        checkpoint: As read; of cn_clip's standard or flash-attention layout.
        config: cn_clip's `model_info`, or a dictionary that holds it under that name; None for the published sizes.
        tokenizer: `vocab.txt`, or a folder or Hub name of a BERT tokenizer, of which only the vocabulary is used.

    Returns:
        The conversion.

    Raises:
        ConversionError: If the keys or the settings do not fit.
    """
    settings = _settings(config, checkpoint)
    tensors = dict(checkpoint.tensors)
    sizes = _sizes(tensors)
    _check_agreement(settings, sizes, checkpoint)
    known = {*sizes, *_OPTIONS}
    if config and not known & settings.keys():
        raise ConversionError(f"config has none of cn_clip's settings ({', '.join(sorted(known))}): {sorted(config)}.")
    resolution = int(settings.get("image_resolution") or sizes["image_resolution"])
    notes = []
    if settings.get("official_fp16_rounding"):
        tensors = {name: _rounded(name, tensor) for name, tensor in tensors.items()}
        notes.append("Weights were rounded through half precision as cn_clip's load_from_name does.")
    is_resnet = isinstance(sizes["vision_layers"], list)
    if is_resnet:
        if resolution != sizes["image_resolution"]:
            raise ConversionError(
                f"config says image_resolution {resolution}, and {checkpoint.path} is for {sizes['image_resolution']}; "
                "cn_clip resizes the positions of its ViTs only."
            )
    else:
        table, grid = tensors["visual.positional_embedding"], resolution // sizes["vision_patch_size"]
        if len(table) != grid * grid + 1:
            tensors["visual.positional_embedding"] = resized_positions(table, grid)
            notes.append(f"The position embedding was resized from {sizes['image_resolution']} to {resolution} pixels.")
    build = _resnet if is_resnet else _vit
    model = build(settings, sizes, resolution, float(tensors["logit_scale"]))
    mapped = map_keys(tensors, RESNET_RULES if is_resnet else VIT_RULES, family=FAMILY)
    load_exactly(model, mapped, family=FAMILY)
    size = {"height": resolution, "width": resolution}
    images = ChineseCLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False, default_to_square=True)
    if tokenizer is None:
        missing = ["a tokenizer: pass --tokenizer with the vocab.txt of cn_clip, which is bert-base-chinese's."]
        return Conversion(model, mapped, missing=missing, notes=notes, image_processor=images)
    words = bert_tokenizer(
        tokenizer,
        vocab_size=sizes["vocab_size"],
        max_length=min(CONTEXT, sizes["text_max_position_embeddings"]),
        straight_quotes=bool(settings.get("straight_quotes")),
    )
    if is_resnet:
        processor: Any = DualEncoderProcessor(
            words, image_size=resolution, resize="squash", max_text_length=words.model_max_length
        )
    else:
        processor = ChineseCLIPProcessor(images, words)
    return Conversion(model.eval(), mapped, processor, notes=notes, image_processor=images)


def resized_positions(table: torch.Tensor, grid: int) -> torch.Tensor:
    """A vision transformer's position embedding for another number of patches, as cn_clip resizes it.

    Args:
        table: (1 + old grid², width), the class token's first.
        grid: Patches along one side.

    Returns:
        (1 + grid², width).

    Example:
        >>> resized_positions(torch.arange(5.0).reshape(5, 1), 3).flatten().tolist()
        [0.0, 1.0, 1.5, 2.0, 2.0, 2.5, 3.0, 3.0, 3.5, 4.0]
    """
    old = math.isqrt(len(table) - 1)
    patches = table[1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    # open_clip and transformers do not align the corners.
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=True)
    return torch.cat([table[:1].float(), patches.permute(0, 2, 3, 1).reshape(grid * grid, -1)])


def _rounded(name: str, tensor: torch.Tensor) -> torch.Tensor:
    keeps = not tensor.is_floating_point() or _NOT_ROUNDED.fullmatch(name)
    return tensor if keeps else tensor.half().to(tensor.dtype)


def _settings(config: dict[str, Any] | None, checkpoint: Checkpoint) -> dict[str, Any]:
    """cn_clip's own settings: those given, or those in a file beside the checkpoint."""
    beside = checkpoint.config or {}
    given = config if config is not None else beside if "model_info" in beside or "text_hidden_size" in beside else {}
    nested = given.get("model_info", {})
    if not isinstance(nested, Mapping):
        raise ConversionError(f"config: model_info is a {type(nested).__name__}, expected the settings of cn_clip.")
    settings = {**given, **nested}
    layers = settings.get("vision_layers")
    if isinstance(layers, str):  # cn_clip's RN50.json holds "[3,4,6,3]"
        try:
            settings["vision_layers"] = json.loads(layers)
        except json.JSONDecodeError as error:
            raise ConversionError(f"config: vision_layers {layers!r} is no list of numbers.") from error
    return settings


def _sizes(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What the shapes tell, by cn_clip's names."""
    words = tensors[_WORDS]
    sizes: dict[str, Any] = {
        "embed_dim": tensors["text_projection"].shape[1],
        "vocab_size": words.shape[0],
        "text_hidden_size": words.shape[1],
        "text_intermediate_size": tensors["bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
        "text_max_position_embeddings": tensors["bert.embeddings.position_embeddings.weight"].shape[0],
        "text_type_vocab_size": tensors["bert.embeddings.token_type_embeddings.weight"].shape[0],
        "text_num_hidden_layers": _count(tensors, r"bert\.encoder\.layer\.(\d+)\..*"),
    }
    if "visual.layer1.0.conv1.weight" in tensors:
        positions = len(tensors["visual.attnpool.positional_embedding"])
        sizes["vision_width"] = tensors["visual.layer1.0.conv1.weight"].shape[0]
        sizes["vision_layers"] = [_count(tensors, rf"visual\.layer{stage}\.(\d+)\..*") for stage in range(1, 5)]
        patch = 32  # by which the four stages and the stem make an image smaller
    else:
        positions = len(tensors["visual.positional_embedding"])
        kernel = tensors["visual.conv1.weight"]
        sizes["vision_width"], patch = kernel.shape[0], kernel.shape[-1]
        sizes["vision_layers"] = _count(tensors, r"visual\.transformer\.resblocks\.(\d+)\..*")
        sizes["vision_patch_size"] = patch
        sizes["vision_intermediate_size"] = tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    grid = math.isqrt(positions - 1)
    if grid * grid != positions - 1:
        raise ConversionError(f"{positions} image positions, which are not one more than a square.")
    sizes["image_resolution"] = grid * patch
    return sizes


def _count(tensors: Mapping[str, torch.Tensor], pattern: str) -> int:
    return len({match.group(1) for name in tensors if (match := re.fullmatch(pattern, name))})


def _check_agreement(settings: dict[str, Any], sizes: dict[str, Any], checkpoint: Checkpoint) -> None:
    wrong = [
        f"{name} {settings[name]} instead of {size}"
        for name, size in sizes.items()
        if settings.get(name) not in (None, size) and name != "image_resolution"
    ]
    if wrong:
        raise ConversionError(f"config does not fit {checkpoint.path}: it says {', '.join(wrong)}.")


def _heads(width: int, head_width: int, what: str) -> int:
    if width % head_width:
        raise ConversionError(
            f"{what}: a width of {width} is no multiple of {head_width}, so the number of heads cannot be told from the "
            "weights; pass cn_clip's settings as config, with vision_head_width and text_num_attention_heads."
        )
    return width // head_width


def _vision_heads(settings: dict[str, Any], sizes: dict[str, Any]) -> int:
    width = sizes["vision_width"]
    is_resnet = isinstance(sizes["vision_layers"], list)
    published = 80 if width == 1280 and not is_resnet else 64  # ViT-H has wider heads
    head_width = int(settings.get("vision_head_width") or published)
    return _heads(32 * width if is_resnet else width, head_width, "image tower")


def _text_settings(settings: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    hidden = sizes["text_hidden_size"]
    heads = settings.get("text_num_attention_heads")
    return {
        "vocab_size": sizes["vocab_size"],
        "hidden_size": hidden,
        "intermediate_size": sizes["text_intermediate_size"],
        "num_hidden_layers": sizes["text_num_hidden_layers"],
        "num_attention_heads": int(heads) if heads else _heads(hidden, 64, "text tower"),
        "max_position_embeddings": sizes["text_max_position_embeddings"],
        "type_vocab_size": sizes["text_type_vocab_size"],
        "hidden_act": settings.get("text_hidden_act", "gelu"),
        "hidden_dropout_prob": settings.get("text_hidden_dropout_prob", 0.1),
        "attention_probs_dropout_prob": settings.get("text_attention_probs_dropout_prob", 0.1),
        "initializer_range": settings.get("text_initializer_range", 0.02),
        "layer_norm_eps": 1e-12,
    }


def _vit(settings: dict[str, Any], sizes: dict[str, Any], resolution: int, logit_scale: float) -> PreTrainedModel:
    vision = {
        "hidden_size": sizes["vision_width"],
        "intermediate_size": sizes["vision_intermediate_size"],
        "num_hidden_layers": sizes["vision_layers"],
        "num_attention_heads": _vision_heads(settings, sizes),
        "image_size": resolution,
        "patch_size": sizes["vision_patch_size"],
        "projection_dim": sizes["embed_dim"],
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
    config = ChineseCLIPConfig(
        # With an id here transformers' from_pretrained sets that row of the word embeddings to zero; masked as it is, it
        # needs no name for anything else.
        text_config={**_text_settings(settings, sizes), "pad_token_id": None},
        vision_config=vision,
        projection_dim=sizes["embed_dim"],
        logit_scale_init_value=logit_scale,
    )
    return ChineseCLIPModel(config).eval()


def _resnet(settings: dict[str, Any], sizes: dict[str, Any], resolution: int, logit_scale: float) -> PreTrainedModel:
    config = ChineseCLIPResNetConfig(
        BertConfig(**_text_settings(settings, sizes), pad_token_id=0),
        projection_dim=sizes["embed_dim"],
        vision_width=sizes["vision_width"],
        vision_layers=sizes["vision_layers"],
        vision_heads=_vision_heads(settings, sizes),
        image_size=resolution,
        max_text_length=min(CONTEXT, sizes["text_max_position_embeddings"]),
        logit_scale_init_value=logit_scale,
    )
    return ChineseCLIPResNetModel(config).eval()
