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

# Of the published models, by width: what the weights do not tell. Head widths other than 64 of CLIP's image towers, and
# head counts of SigLIP's towers where they are not width / 64.
_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}
_SIGLIP_HEADS = {1152: 16, 1536: 16}
_SIGLIP_SIZES = {768: "base", 1024: "large", 1152: "so400m", 1536: "giantopt"}
# timm's SigLIP towers with the approximate GELU; all others have the exact one.
_TANH_TOWERS = re.compile(r"vit_(base_patch32_siglip_256|large_patch16_siglip_512|so400m_patch16_.*|giantopt_.*)")
_SIGLIP2_TOKENS = 256_000
_PADS = {32_000: 1}  # </s>; T5's tokenizer, of the same vocabulary, pads with another token
# Settings of open_clip for which neither model of transformers has a counterpart, and what they have to be.
_VISION_MUST = {"pool_type": "tok", "no_ln_pre": False, "final_ln_after_pool": False, "attentional_pool": False}
_CLIP_TEXT_MUST = {"no_causal_mask": False, "embed_cls": False, "final_ln_after_pool": False, "proj_bias": False}
_SIGLIP_TEXT_MUST = {"no_causal_mask": True, "pool_type": "last", "embed_cls": False, "proj_bias": True}
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
    tensors, prefix = _unprefixed(checkpoint.tensors)
    siglip = _is_siglip(tensors, checkpoint)
    notes = [f"the prefix {prefix!r} of every key was taken off"] if prefix else []

    mapped = map_keys(tensors, SIGLIP_RULES if siglip else CLIP_RULES, family="open_clip")
    openai = SCRIPT in checkpoint.nesting or "input_resolution" in tensors
    build = _siglip_settings if siglip else _clip_settings
    settings = build(tensors, model_cfg, quick=bool(model_cfg.get("quick_gelu", openai and not siglip)))
    if "quick_gelu" not in model_cfg and not siglip:
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


def _clip_settings(tensors: Tensors, model_cfg: Mapping[str, Any], quick: bool) -> dict[str, Any]:
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


def _siglip_settings(tensors: Tensors, model_cfg: Mapping[str, Any], quick: bool) -> dict[str, Any]:
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
