"""What size and which settings has a model of open_clip? Told by its weights and, where they do not tell, its configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from mmembed.conversion.checkpoint_reading import ConversionError
from mmembed.conversion.key_table import shown

Tensors = Mapping[str, torch.Tensor]

# Of the published models, by width: what the weights do not tell. Head widths other than 64 of CLIP's image towers, and
# head counts of SigLIP's towers where they are not width / 64.
_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}
_SIGLIP_HEADS = {1152: 16, 1536: 16}
_SIGLIP_SIZES = {768: "base", 1024: "large", 1152: "so400m", 1536: "giantopt"}
# timm's SigLIP towers with the approximate GELU; all others have the exact one.
_TANH_TOWERS = re.compile(r"vit_(base_patch32_siglip_256|large_patch16_siglip_512|so400m_patch16_.*|giantopt_.*)")
_SIGLIP2_TOKENS = 256_000
# Settings of open_clip for which neither model of transformers has a counterpart, and what they have to be.
_VISION_MUST = {"pool_type": "tok", "no_ln_pre": False, "final_ln_after_pool": False, "attentional_pool": False}
_CLIP_TEXT_MUST = {"no_causal_mask": False, "embed_cls": False, "final_ln_after_pool": False, "proj_bias": False}
_SIGLIP_TEXT_MUST = {"no_causal_mask": True, "pool_type": "last", "embed_cls": False, "proj_bias": True}


def _shape(tensors: Tensors, name: str, dimensions: int) -> tuple[int, ...]:
    found = tuple(tensors[name].shape) if name in tensors else None
    if found is None:
        raise ConversionError(f"the checkpoint has no {name}, which tells the model's size. Nothing was written.")
    if len(found) != dimensions or 0 in found:
        raise ConversionError(f"{name} has the shape {found}, expected {dimensions} dimensions. Nothing was written.")
    return found


def _layers(tensors: Tensors, blocks: str) -> int:
    """How many there are; where one is missing, so many that the message names it."""
    numbers = [int(match[1]) for name in tensors if (match := re.match(rf"{blocks}\.(\d+)\.", name))]
    return min(max(numbers, default=-1) + 1, len(tensors))


def _grid(positions: int, name: str) -> int:
    grid = math.isqrt(positions)
    if grid * grid != positions:
        raise ConversionError(f"{name} has {positions} positions of patches, which is no square; only those are read.")
    return grid


def _heads(width: int, heads: Any, tower: str, setting: str) -> int:
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise ConversionError(
            f"{heads} heads do not fit the {tower} tower's width of {width}; the weights do not tell them, so pass the "
            f"configuration ({setting})."
        )
    return heads


def _width(tensors: Tensors, axes: Mapping[str, int]) -> int:
    """One width, which each of some tensors has along an axis; where one differs, that one is named among the others."""
    widths = {
        name: tensors[name].shape[axis] for name, axis in axes.items() if name in tensors and tensors[name].ndim > axis
    }
    if len(set(widths.values())) != 1:
        found = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise ConversionError(f"a width differs between {found or shown(list(axes))}. Nothing was written.")
    return next(iter(widths.values()))


def _inner_width(tensors: Tensors, first: str, second: str) -> int:
    return _width(tensors, {f"{first}.weight": 0, f"{first}.bias": 0, f"{second}.weight": 1})


def _agree(found: Mapping[str, tuple[int, str]], given: Mapping[str, Any], part: str) -> None:
    """Setting → its value in the weights and the key that tells it."""
    wrong = [
        f"{part}{name} is {given[name]} where {key} has {value}"
        for name, (value, key) in found.items()
        if given.get(name, value) != value
    ]
    if wrong:
        raise ConversionError(f"the configuration does not fit the weights: {', '.join(wrong)}. Is it another model's?")


def _must(cfg: Mapping[str, Any], wanted: Mapping[str, Any], part: str) -> None:
    wrong = [f"{part}.{name}={cfg[name]!r}" for name, value in wanted.items() if cfg.get(name, value) != value]
    if wrong:
        raise ConversionError(f"{', '.join(wrong)}: transformers' model has no such setting.")


def _activation(quick: bool, cfg: Mapping[str, Any]) -> str:
    if quick:
        return "quick_gelu"
    return "gelu_pytorch_tanh" if (cfg.get("act_kwargs") or {}).get("approximate") == "tanh" else "gelu"


def _text_settings(tensors: Tensors, prefix: str, cfg: Mapping[str, Any], quick: bool, eps: float) -> dict[str, Any]:
    tokens, positions, blocks = (
        f"{prefix}{name}" for name in ("token_embedding.weight", "positional_embedding", "transformer.resblocks")
    )
    vocab, length = _shape(tensors, tokens, 2)[0], _shape(tensors, positions, 2)[0]
    width = _width(tensors, {tokens: 1, positions: 1, f"{prefix}ln_final.weight": 0})
    layers = _layers(tensors, re.escape(blocks))
    sizes = {"vocab_size": (vocab, tokens), "context_length": (length, positions)}
    _agree({**sizes, "width": (width, tokens), "layers": (layers, blocks)}, cfg, "text_cfg.")
    # open_clip's default is 8 where a configuration does not say.
    heads = cfg.get("heads", 8 if cfg else _SIGLIP_HEADS.get(width, width // 64))
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": _inner_width(tensors, f"{blocks}.0.mlp.c_fc", f"{blocks}.0.mlp.c_proj"),
        "num_hidden_layers": layers,
        "num_attention_heads": _heads(width, heads, "text", "text_cfg.heads"),
        "max_position_embeddings": length,
        "hidden_act": _activation(quick, cfg),
        "layer_norm_eps": (cfg.get("norm_kwargs") or {}).get("eps", eps),
    }


def clip_settings(tensors: Tensors, model_cfg: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """The arguments of `CLIPConfig`.

    Args:
        tensors: Under open_clip's names.
        model_cfg: open_clip's configuration; what is not in it is that of the published models of these sizes.
        quick: Whether the activation is the quick GELU.

    Returns:
        `text_config`, `vision_config` and `projection_dim`.

    Raises:
        ConversionError: If a tensor that tells a size is missing or misshapen, the configuration does not fit the tensors,
            or has a setting for which transformers has no counterpart.
    """
    vision, text = dict(model_cfg.get("vision_cfg", {})), dict(model_cfg.get("text_cfg", {}))
    _must(vision, _VISION_MUST, "vision_cfg")
    _must(text, _CLIP_TEXT_MUST, "text_cfg")
    conv, positions, blocks = "visual.conv1.weight", "visual.positional_embedding", "visual.transformer.resblocks"
    _, channels, patch, _ = _shape(tensors, conv, 4)
    grid = _grid(_shape(tensors, positions, 2)[0] - 1, positions)
    width = _width(tensors, {conv: 0, positions: 1, "visual.ln_post.weight": 0})
    dim, layers = _shape(tensors, "visual.proj", 2)[1], _layers(tensors, re.escape(blocks))
    _agree({"embed_dim": (dim, "visual.proj")}, model_cfg, "")
    sizes = {"width": (width, conv), "patch_size": (patch, conv), "layers": (layers, blocks)}
    _agree(sizes, vision, "vision_cfg.")
    head_width = vision.get("head_width", 64 if vision else _HEAD_WIDTHS.get(width, 64))
    text_config = _text_settings(tensors, "text." if "text.ln_final.weight" in tensors else "", text, quick, 1e-5)
    pool = text.get("pool_type", "argmax")
    end = text.get("eos_id", 2) if pool == "eos" else model_cfg.get("eot_id", text_config["vocab_size"] - 1)
    if pool not in ("argmax", "eos") or (pool == "eos" and end == 2):
        # transformers takes an eos of 2 for the argmax.
        raise ConversionError(f"text_cfg.pool_type={pool!r} with the eos {end}: CLIPModel pools the highest token.")
    return {
        "projection_dim": dim,
        "text_config": {
            **text_config,
            "projection_dim": dim,
            "bos_token_id": model_cfg.get("sot_id", max(text_config["vocab_size"] - 2, 0)),
            "eos_token_id": end,
            "pad_token_id": model_cfg.get("pad_id", 0),
        },
        "vision_config": {
            "hidden_size": width,
            "intermediate_size": _inner_width(tensors, f"{blocks}.0.mlp.c_fc", f"{blocks}.0.mlp.c_proj"),
            "num_hidden_layers": layers,
            "num_attention_heads": _heads(width, width // max(head_width, 1), "image", "vision_cfg.head_width"),
            "num_channels": channels,
            "image_size": _image_size(vision, patch, grid),
            "patch_size": patch,
            "hidden_act": _activation(quick, vision),
            "layer_norm_eps": (vision.get("norm_kwargs") or {}).get("eps", 1e-5),
            "projection_dim": dim,
        },
    }


def siglip_settings(tensors: Tensors, model_cfg: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """The arguments of `SiglipConfig`.

    Args:
        tensors: Under open_clip's names.
        model_cfg: open_clip's configuration; what is not in it is that of the published models of these sizes.
        quick: Whether the activation is the quick GELU (of the text tower: timm's has it nowhere).

    Returns:
        `text_config`, `vision_config`.

    Raises:
        ConversionError: If a tensor that tells a size is missing or misshapen, the configuration does not fit the tensors,
            or has a setting for which transformers has no counterpart.
    """
    vision, text = dict(model_cfg.get("vision_cfg", {})), dict(model_cfg.get("text_cfg", {}))
    if text:
        # open_clip's own defaults are CLIP's.
        _must(
            {"no_causal_mask": False, "pool_type": "argmax", "proj_bias": False, **text}, _SIGLIP_TEXT_MUST, "text_cfg"
        )
    conv, positions = "visual.trunk.patch_embed.proj.weight", "visual.trunk.pos_embed"
    blocks = "visual.trunk.blocks"
    _, channels, patch, _ = _shape(tensors, conv, 4)
    grid = _grid(_shape(tensors, positions, 3)[1], positions)
    width = _width(tensors, {conv: 0, positions: 2, "visual.trunk.norm.weight": 0})
    dim = _shape(tensors, "text.text_projection.weight", 2)[0]
    _agree({"embed_dim": (dim, "text.text_projection.weight")}, model_cfg, "")
    heads = (model_cfg.get("timm_tiny_overrides") or {}).get("num_heads")
    if heads is None:
        heads = (
            width // max(vision["head_width"], 1) if "head_width" in vision else _SIGLIP_HEADS.get(width, width // 64)
        )
    published = f"vit_{_SIGLIP_SIZES.get(width)}_patch{patch}_siglip_{patch * grid}"
    tower = vision.get("timm_model_name") or published
    text_config = _text_settings(tensors, "text.", text, quick, 1e-5 if text else 1e-6)
    if not text and text_config["vocab_size"] == _SIGLIP2_TOKENS:
        text_config["hidden_act"] = "gelu_pytorch_tanh"
    return {
        "text_config": {
            **text_config,
            "projection_size": dim,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": model_cfg.get("pad_id", 0 if text_config["vocab_size"] == _SIGLIP2_TOKENS else 1),
        },
        "vision_config": {
            "hidden_size": width,
            "intermediate_size": _inner_width(tensors, f"{blocks}.0.mlp.fc1", f"{blocks}.0.mlp.fc2"),
            "num_hidden_layers": _layers(tensors, re.escape(blocks)),
            "num_attention_heads": _heads(width, heads, "image", "vision_cfg.head_width"),
            "num_channels": channels,
            "image_size": _image_size(vision, patch, grid),
            "patch_size": patch,
            "hidden_act": "gelu_pytorch_tanh" if _TANH_TOWERS.match(tower) else "gelu",
            "layer_norm_eps": model_cfg.get("layer_norm_eps", 1e-6),
        },
    }


def _image_size(vision: Mapping[str, Any], patch: int, grid: int) -> int:
    size = vision.get("image_size", patch * grid)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    if height != width or height < patch:
        raise ConversionError(f"vision_cfg.image_size {size}: only squares of a patch ({patch}) or more are read.")
    return height
