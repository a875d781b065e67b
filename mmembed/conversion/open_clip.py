"""open_clip's CLIP and SigLIP, and OpenAI's own archives → transformers' `CLIPModel` and `SiglipModel`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import interpolate
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mmembed.conversion.checkpoint_reading import SCRIPT, Checkpoint, ConversionError
from mmembed.conversion.converting import Conversion
from mmembed.conversion.key_table import Mapped, Rule, load_exactly, map_keys, shown, split_in_three, transposed
from mmembed.conversion.open_clip_settings import clip_settings, siglip_settings
from mmembed.conversion.open_clip_tokenizer import read_tokenizer
from mmembed.conversion.openai_blocks import VISION_RULES, block_rules

Tensors = Mapping[str, torch.Tensor]


def _text_rules(prefix: str) -> list[Rule]:
    return [
        Rule(rf"{prefix}token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
        Rule(rf"{prefix}positional_embedding", "text_model.embeddings.position_embedding.weight"),
        Rule(rf"{prefix}ln_final\.(weight|bias)", r"text_model.final_layer_norm.\1"),
        *block_rules(rf"{prefix}transformer", "text_model.encoder"),
        Rule(
            rf"(?:{prefix})?(?:transformer\.resblocks\.\d+\.)?attn_mask",
            reason="the causal mask, which the model makes",
        ),
    ]


CLIP_RULES = [
    *VISION_RULES,
    *_text_rules(r"(?:text\.)?"),
    Rule(r"(?:text\.)?text_projection", "text_projection.weight", transposed),
    Rule(r"logit_scale", "logit_scale", lambda scale: scale.reshape(())),
    Rule(
        r"logit_bias", reason="shifts every score of the sigmoid loss alike; CLIPModel has none, and no vector needs it"
    ),
    Rule(r"input_resolution|context_length|vocab_size", reason="a size, which the weights tell as well"),
]


def _first_and_only(table: torch.Tensor) -> torch.Tensor:
    """(1, positions, width) → (positions, width)."""
    if table.ndim != 3 or len(table) != 1:
        raise ValueError("it is not (1, positions, width)")
    return table[0]


_TRUNK, _LAYER = r"visual\.trunk\.blocks\.(\d+)", r"vision_model.encoder.layers.\1"
_POOL, _HEAD = r"visual\.trunk\.attn_pool", "vision_model.head"
SIGLIP_RULES = [
    Rule(r"visual\.trunk\.pos_embed", "vision_model.embeddings.position_embedding.weight", _first_and_only),
    Rule(r"visual\.trunk\.patch_embed\.proj\.(weight|bias)", r"vision_model.embeddings.patch_embedding.\1"),
    Rule(rf"{_TRUNK}\.norm([12])\.(weight|bias)", rf"{_LAYER}.layer_norm\2.\3"),
    Rule(
        rf"{_TRUNK}\.attn\.qkv\.(weight|bias)",
        tuple(rf"{_LAYER}.self_attn.{name}_proj.\2" for name in "qkv"),
        split_in_three,
    ),
    Rule(rf"{_TRUNK}\.attn\.proj\.(weight|bias)", rf"{_LAYER}.self_attn.out_proj.\2"),
    Rule(rf"{_TRUNK}\.mlp\.(fc[12])\.(weight|bias)", rf"{_LAYER}.mlp.\2.\3"),
    Rule(r"visual\.trunk\.norm\.(weight|bias)", r"vision_model.post_layernorm.\1"),
    Rule(rf"{_POOL}\.latent", f"{_HEAD}.probe"),
    # One tensor in transformers: the query's rows above those of key and value.
    Rule(rf"{_POOL}\.q\.(weight|bias)", rf"{_HEAD}.attention.in_proj_\1/q"),
    Rule(rf"{_POOL}\.kv\.(weight|bias)", rf"{_HEAD}.attention.in_proj_\1/kv"),
    Rule(rf"{_POOL}\.proj\.(weight|bias)", rf"{_HEAD}.attention.out_proj.\1"),
    Rule(rf"{_POOL}\.norm\.(weight|bias)", rf"{_HEAD}.layernorm.\1"),
    Rule(rf"{_POOL}\.mlp\.(fc[12])\.(weight|bias)", rf"{_HEAD}.mlp.\1.\2"),
    *_text_rules(r"text\."),
    Rule(r"text\.text_projection\.(weight|bias)", r"text_model.head.\1"),
    Rule(r"(logit_scale|logit_bias)", r"\1", lambda scalar: scalar.reshape(1)),
]

_KNOWN = {"vision_cfg", "text_cfg", "quick_gelu", "preprocess_cfg"}
_PADS = {32_000: 1}  # </s>; T5's tokenizer, of the same vocabulary, pads with another token
_INTERPOLATIONS = {"bilinear": 2, "bicubic": 3, "random": 3}


def recognises(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has an image tower called `visual` and a text transformer of OpenAI's blocks."""
    names = list(_unprefixed(checkpoint.tensors)[0])
    text = any(re.match(r"(text\.)?transformer\.resblocks\.", name) for name in names)
    return text and any(name.startswith("visual.") for name in names)


def convert(
    checkpoint: Checkpoint, config: Mapping[str, Any] | None, tokenizer: str | os.PathLike[str] | None
) -> Conversion:
    """CLIP → `CLIPModel`, SigLIP → `SiglipModel`.

    Args:
        checkpoint: Weights that open_clip or OpenAI published, or a training checkpoint of open_clip.
        config: A model configuration of open_clip, an `open_clip_config.json`, or None: the latter beside the weights is
            taken, or the settings of the published models of these sizes. `quick_gelu` is not in the weights; without a
            configuration OpenAI's archives have it and all others have not. Another `image_size` than the checkpoint's
            resizes the position embeddings.
        tokenizer: CLIP's or SigLIP's, as `read_tokenizer` takes it; None takes the one beside the weights, if any.

    Returns:
        The conversion.

    Raises:
        ConversionError: If the keys do not fit, or a setting has no counterpart in transformers.
    """
    given = dict(config) if config is not None else _config_beside(checkpoint)
    model_cfg = dict(given.get("model_cfg", given))
    if given and not _KNOWN & (given.keys() | model_cfg.keys()):
        raise ConversionError(
            f"the configuration has none of {', '.join(sorted(_KNOWN))}, but {shown(list(given))}; it is not open_clip's. "
            "The keys of ruCLIP are those of CLIP: name the family where it is that."
        )
    tensors, prefix = _unprefixed(checkpoint.tensors)
    siglip = _is_siglip(tensors, checkpoint)
    notes = [f"the prefix {prefix!r} of every key was taken off"] if prefix else []

    mapped = map_keys(tensors, SIGLIP_RULES if siglip else CLIP_RULES, family="open_clip")
    openai = SCRIPT in checkpoint.nesting or "input_resolution" in tensors
    build = siglip_settings if siglip else clip_settings
    settings = build(tensors, model_cfg, quick=bool(model_cfg.get("quick_gelu", openai and not siglip)))
    if "quick_gelu" not in model_cfg and not siglip and (openai or "vision_cfg" not in model_cfg):
        activation, why = ("quick_gelu", "OpenAI's archives have it") if openai else ("gelu", "open_clip's default")
        notes.append(
            f"hidden_act is {activation}, {why}: no configuration said whether quick_gelu is on. Weights of OpenAI, DFN "
            "and MetaCLIP need it; pass config={'quick_gelu': true} for those."
        )
    if siglip:
        _join_pool(mapped)
    notes += _resize(mapped, settings["vision_config"])

    model = SiglipModel(SiglipConfig(**settings)) if siglip else CLIPModel(CLIPConfig(**settings))
    load_exactly(model, mapped, family="open_clip")
    model.eval()

    size = settings["vision_config"]["image_size"]
    images = _image_processor(dict(given.get("preprocess_cfg") or {}), size, siglip)
    source = tokenizer or _tokenizer_beside(checkpoint)
    conversion = Conversion(model, mapped, notes=notes, image_processor=images)
    if source is None:
        conversion.missing.append(
            "a tokenizer: pass --tokenizer with the folder or Hub name of the model's own"
            + (" (timm/ViT-B-16-SigLIP)" if siglip else ", or bpe_simple_vocab_16e6.txt.gz")
            + "; until then the folder encodes no texts"
        )
        return conversion
    text: Any = model.config.text_config
    text_cfg = model_cfg.get("text_cfg", {})
    # Where open_clip reads a text with a tokenizer of transformers, it keeps the case unless told otherwise.
    plain = "whitespace" if "hf_tokenizer_name" in text_cfg else "lower"
    clean = (text_cfg.get("tokenizer_kwargs") or {}).get("clean", "canonicalize" if siglip and not text_cfg else plain)
    words = read_tokenizer(
        source,
        clean=clean,
        length=text.max_position_embeddings,
        vocab_size=text.vocab_size,
        # CLIP reads nothing after the end of a text: its padding is the tokenizer's own, which is no token of a text.
        pad_id=model_cfg.get("pad_id", _PADS.get(text.vocab_size)) if siglip else None,
        end_id=None if siglip else text.eos_token_id,
    )
    if siglip:
        text.pad_token_id = words.pad_token_id
    conversion.processor = (SiglipProcessor if siglip else CLIPProcessor)(images, words)
    return conversion


def _config_beside(checkpoint: Checkpoint) -> dict[str, Any]:
    found = checkpoint.config or {}
    return found if "model_cfg" in found or "vision_cfg" in found else {}


def _tokenizer_beside(checkpoint: Checkpoint) -> str | None:
    names = ("tokenizer.json", "tokenizer_config.json")
    return str(checkpoint.folder) if any((checkpoint.folder / name).is_file() for name in names) else None


def _unprefixed(tensors: Tensors) -> tuple[dict[str, torch.Tensor], str]:
    """Marqo's wrapper holds open_clip's model as its attribute `model`."""
    prefix = "model."
    if not all(name.startswith(prefix) for name in tensors):
        return dict(tensors), ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, prefix


def _is_siglip(tensors: Tensors, checkpoint: Checkpoint) -> bool:
    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in tensors)

    if has("visual.layer1."):
        raise ConversionError(
            f"{checkpoint.path} has a ResNet as its image tower (RN50 and its kin); CLIPModel has none."
        )
    if not has("transformer.resblocks.", "text.transformer.resblocks."):
        raise ConversionError(
            f"{checkpoint.path} has no text transformer of OpenAI's blocks; keys: {shown(list(tensors))}."
        )
    if has("visual.trunk.attn_pool.") and has("visual.trunk.blocks."):
        return True
    if has("visual.trunk."):
        raise ConversionError(
            f"{checkpoint.path} has a tower of timm that is not SigLIP's; transformers has no such model."
        )
    return False


def _join_pool(mapped: Mapped) -> None:
    """Query, key and value of the pooling head in one tensor, as torch's attention has them."""
    lacking = []
    for kind in ("weight", "bias"):
        name = f"{_HEAD}.attention.in_proj_{kind}"
        parts = [mapped.tensors.pop(f"{name}/{part}", None) for part in ("q", "kv")]
        lacking += [f"visual.trunk.attn_pool.{p}.{kind}" for p, tensor in zip(("q", "kv"), parts) if tensor is None]
        if not any(part is None for part in parts):
            mapped.tensors[name] = torch.cat([part for part in parts if part is not None])
    if lacking:
        raise ConversionError(f"{len(lacking)} missing: {', '.join(lacking)}. Nothing was written.")
    mapped.renamed = [
        (source, tuple(target.removesuffix("/q").removesuffix("/kv") for target in targets))
        for source, targets in mapped.renamed
    ]


def _resize(mapped: Mapped, vision: Mapping[str, Any]) -> list[str]:
    """Position embeddings (class token + positions, width) of another grid, as open_clip resizes them."""
    name = "vision_model.embeddings.position_embedding.weight"
    table, grid = mapped.tensors[name].float(), vision["image_size"] // vision["patch_size"]
    extra = table.shape[0] - math.isqrt(table.shape[0]) ** 2
    before = math.isqrt(table.shape[0])
    if before == grid:
        return []
    patches = table[extra:].reshape(1, before, before, -1).permute(0, 3, 1, 2)
    patches = interpolate(patches, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    mapped.tensors[name] = torch.cat([table[:extra], patches.permute(0, 2, 3, 1).reshape(grid * grid, -1)])
    return [f"position embeddings were resized from {before}×{before} to {grid}×{grid} patches, as image_size asks"]


def _image_processor(cfg: dict[str, Any], size: int, siglip: bool) -> Any:
    """What open_clip does to an image before the model sees it."""
    mode = cfg.get("resize_mode", "squash" if siglip else "shortest")
    resample = _INTERPOLATIONS.get(cfg.get("interpolation", "bicubic"))
    if resample is None or mode not in ("shortest", "squash") or (siglip and mode != "squash"):
        raise ConversionError(
            f"preprocess_cfg: resize_mode={mode!r}, interpolation={cfg.get('interpolation')!r}: transformers' image "
            "processor of this model has no such setting."
        )
    square = {"height": size, "width": size}
    common: dict[str, Any] = {
        "resample": resample,
        "image_mean": list(cfg.get("mean") or ([0.5] * 3 if siglip else OPENAI_CLIP_MEAN)),
        "image_std": list(cfg.get("std") or ([0.5] * 3 if siglip else OPENAI_CLIP_STD)),
    }
    if siglip:
        return SiglipImageProcessorPil(size=square, **common)
    crop = mode == "shortest"
    return CLIPImageProcessorPil(
        size={"shortest_edge": size} if crop else square, crop_size=square, do_center_crop=crop, **common
    )
