"""ruCLIP: a folder of the hub (config.json, pytorch_model.bin, bpe.model), or its weights → transformers' CLIPModel.

Images go through a centre crop to a square and a bilinear resize. The original does it by torchvision's RandomResizedCrop
with a scale and ratio of one, which takes a square at a random place where the sides differ by so little that the square of
the same area, rounded, fits into the image (100 x 101 pixels, say): it is off by a pixel or so there and not reproducible.
Cropping before resizing is what transformers' processor of Perceiver does, so that one is saved.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPProcessor, PerceiverImageProcessorPil
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError
from mmembed.conversion.converting import Conversion
from mmembed.conversion.key_table import Rule, load_exactly, map_keys, transposed
from mmembed.conversion.openai_blocks import VISION_RULES, block_rules
from mmembed.conversion.ruclip_tokenizer import ruclip_tokenizer

FAMILY = "ruclip"
PAD, BOS, EOS = 0, 2, 3
_TOKENIZER_FILE = "bpe.model"

RULES = [
    Rule(r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    Rule(r"token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
    Rule(r"ln_final\.(weight|bias)", r"text_model.final_layer_norm.\1"),
    Rule(r"text_projection", "text_projection.weight", transposed),
    *block_rules("transformer", "text_model.encoder"),
    *VISION_RULES,
    Rule(r"logit_scale", "logit_scale"),
]


def recognises(checkpoint: Checkpoint) -> bool:
    """Whether it has the keys of OpenAI's CLIP, and ruCLIP's `bpe.model` or flat configuration lies beside it."""
    keys = {"token_embedding.weight", "text_projection", "visual.proj", "ln_final.weight"}
    flat = {"embed_dim", "vision_layers"} <= set(_beside(checkpoint))
    return keys <= set(checkpoint.tensors) and (flat or (checkpoint.folder / _TOKENIZER_FILE).is_file())


def convert(
    checkpoint: Checkpoint, config: dict[str, Any] | None, tokenizer: str | os.PathLike[str] | None
) -> Conversion:
    """The model, its processor, and what became of each key.

    Args:
        checkpoint: As read.
        config: ruCLIP's own flat `config.json`; the one beside the weights, or the shapes alone, when None.
        tokenizer: `bpe.model`, a folder that holds one, or a folder or Hub name of a converted tokenizer; the `bpe.model`
            beside the weights when None.

    Returns:
        The conversion.

    Raises:
        ConversionError: If the keys, the settings or the tokenizer do not fit.
    """
    settings = _flat(config) if config is not None else _beside(checkpoint)
    sizes = _sizes(checkpoint.tensors)
    if config and not {*sizes, "transformer_heads", "mean", "std"} & settings.keys():
        raise ConversionError(f"config has none of ruCLIP's settings ({', '.join(sizes)}): {sorted(config)}.")
    wrong = [
        f"{name} {settings[name]} instead of {size}"
        for name, size in sizes.items()
        if settings.get(name) not in (None, size)
    ]
    if wrong:
        raise ConversionError(f"config does not fit {checkpoint.path}: it says {', '.join(wrong)}.")
    model = CLIPModel(_clip_config(settings, sizes, checkpoint.tensors)).eval()
    mapped = map_keys(checkpoint.tensors, RULES, family=FAMILY)
    load_exactly(model, mapped, family=FAMILY)
    size = {"height": sizes["image_resolution"], "width": sizes["image_resolution"]}
    images = PerceiverImageProcessorPil(
        size=size,
        crop_size=size,  # equal to the size: the crop is the largest square
        resample=PILImageResampling.BILINEAR,
        image_mean=list(settings.get("mean") or OPENAI_CLIP_MEAN),
        image_std=list(settings.get("std") or OPENAI_CLIP_STD),
        do_convert_rgb=True,
    )
    source = tokenizer if tokenizer is not None else checkpoint.folder / _TOKENIZER_FILE
    if tokenizer is None and not Path(source).is_file():
        missing = [f"a tokenizer: pass --tokenizer with the {_TOKENIZER_FILE} of the original folder."]
        return Conversion(model, mapped, missing=missing, image_processor=images)
    words = _tokenizer(source, sizes["context_length"])
    if len(words) > sizes["vocab_size"]:
        raise ConversionError(f"{source} has {len(words)} tokens, and {checkpoint.path} {sizes['vocab_size']}.")
    if (words.pad_token_id, words.bos_token_id, words.eos_token_id) != (PAD, BOS, EOS):
        raise ConversionError(
            f"{source}: padding, begin and end are the ids {words.pad_token_id}, {words.bos_token_id} and "
            f"{words.eos_token_id}; ruCLIP pools at id {EOS} and has {PAD}, {BOS} and {EOS}."
        )
    return Conversion(model, mapped, CLIPProcessor(images, words), image_processor=images)


def _tokenizer(source: str | os.PathLike[str], context_length: int) -> Any:
    path = Path(source)
    if path.is_dir() and (path / _TOKENIZER_FILE).is_file():
        path = path / _TOKENIZER_FILE
    if path.is_file():
        return ruclip_tokenizer(path, context_length=context_length)
    try:
        words = AutoTokenizer.from_pretrained(os.fspath(source))
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().split("\n")[0]
        raise ConversionError(f"{source} is neither a {_TOKENIZER_FILE} nor a tokenizer: {said}") from error
    words.model_max_length = min(words.model_max_length, context_length)
    return words


def _beside(checkpoint: Checkpoint) -> dict[str, Any]:
    return _flat(checkpoint.config or {})


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    nested = config.get("config_json_in_published_folder", config)
    return dict(nested) if isinstance(nested, Mapping) else {}


def _sizes(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """What the shapes tell, by ruCLIP's names."""
    kernel = tensors["visual.conv1.weight"]
    positions = len(tensors["visual.positional_embedding"])
    grid = math.isqrt(positions - 1)
    if grid * grid != positions - 1:
        raise ConversionError(f"{positions} image positions, which are not one more than a square.")
    return {
        "embed_dim": tensors["text_projection"].shape[1],
        "image_resolution": grid * kernel.shape[-1],
        "vision_layers": _count(tensors, r"visual\.transformer\.resblocks\.(\d+)\..*"),
        "vision_width": kernel.shape[0],
        "vision_patch_size": kernel.shape[-1],
        "context_length": len(tensors["positional_embedding"]),
        "vocab_size": len(tensors["token_embedding.weight"]),
        "transformer_width": tensors["token_embedding.weight"].shape[1],
        "transformer_layers": _count(tensors, r"transformer\.resblocks\.(\d+)\..*"),
    }


def _count(tensors: Mapping[str, torch.Tensor], pattern: str) -> int:
    return len({match.group(1) for name in tensors if (match := re.fullmatch(pattern, name))})


def _heads(width: int, what: str) -> int:
    if width % 64:
        raise ConversionError(
            f"{what}: a width of {width} is no multiple of 64, so the number of heads cannot be told from the weights; "
            "pass ruCLIP's config.json as config."
        )
    return width // 64


def _clip_config(settings: dict[str, Any], sizes: dict[str, int], tensors: Mapping[str, torch.Tensor]) -> CLIPConfig:
    activation = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": sizes["embed_dim"]}
    heads = settings.get("transformer_heads")
    text = {
        "vocab_size": sizes["vocab_size"],
        "hidden_size": sizes["transformer_width"],
        "intermediate_size": tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": sizes["transformer_layers"],
        "num_attention_heads": int(heads) if heads else _heads(sizes["transformer_width"], "text tower"),
        "max_position_embeddings": sizes["context_length"],
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,  # where transformers pools, unless it is 2
        **activation,
    }
    vision = {
        "hidden_size": sizes["vision_width"],
        "intermediate_size": tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": sizes["vision_layers"],
        "num_attention_heads": _heads(sizes["vision_width"], "image tower"),
        "image_size": sizes["image_resolution"],
        "patch_size": sizes["vision_patch_size"],
        **activation,
    }
    return CLIPConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=sizes["embed_dim"],
        logit_scale_init_value=float(tensors["logit_scale"]),
    )
