"""BLIP retrieval and ChatIR → the bi-encoder of ours, and beside it transformers' `BlipForImageTextRetrieval`.

One checkpoint holds two models over the same towers: contrast (ITC), which makes vectors, and matching (ITM), which scores a
text with an image through cross-attention. The folder is the bi-encoder; its subfolder `itm` is the whole original as stock
transformers, which `mmembed.rerankers.blip_itm` scores with. No weight is lost: what the one has no place for, the other has.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessorPil,
    BlipProcessor,
    PreTrainedTokenizerFast,
)

from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError
from mmembed.conversion.converting import Conversion
from mmembed.conversion.key_table import Mapped, Rule, load_exactly, map_keys
from mmembed.models import DualEncoderProcessor
from mmembed.models.blip_bi_encoder.configuration_blip_bi_encoder import BlipBiEncoderConfig
from mmembed.models.blip_bi_encoder.dialogue_text import CAPTION_TOKENS, DIALOGUE_TOKENS
from mmembed.models.blip_bi_encoder.modeling_blip_bi_encoder import BlipBiEncoderModel

ITM = "itm"
_PREFIX = f"{ITM}/"
_DECODE, _ENCODE = "[DEC]", "[ENC]"  # the last two tokens of BLIP's vocabulary
_HEAD_WIDTH = 64  # of every published size
_ACTIVATIONS = {"gelu": "gelu", "gelu exact": "gelu"}


def _inverse_temperature(temp: torch.Tensor) -> torch.Tensor:
    """The original keeps the temperature within 0.001 and 0.5 before each use."""
    return -temp.float().clamp(0.001, 0.5).log().reshape(1)


def _to_both(pattern: str, bi_encoder: str, itm: str) -> Rule:
    return Rule(pattern, (bi_encoder, _PREFIX + itm), change=lambda tensor: (tensor, tensor))


_BLOCK = r"visual_encoder\.blocks\.(\d+)\."
_LAYER = r"vision_model.encoder.layers.\1."
RULES = [
    Rule(
        r"(visual_encoder|text_encoder|vision_proj|text_proj)_m\..*", reason="momentum copy, a teacher in training only"
    ),
    Rule(r"(image|text|idx)_queue|ptr_queue|queue_ptr", reason="negatives of earlier batches, of use in training only"),
    Rule(r"text_encoder\.embeddings\.position_ids", reason="counts from 0, not learnt"),
    Rule(r"text_decoder\..*", reason="writes captions in pre-training; retrieval has no decoder"),
    Rule(r"temp", "logit_scale", _inverse_temperature),
    *(
        _to_both(pattern, target, target)
        for pattern, target in (
            (r"visual_encoder\.cls_token", "vision_model.embeddings.class_embedding"),
            (r"visual_encoder\.pos_embed", "vision_model.embeddings.position_embedding"),
            (r"visual_encoder\.patch_embed\.proj\.(weight|bias)", r"vision_model.embeddings.patch_embedding.\1"),
            (_BLOCK + r"norm([12])\.(weight|bias)", _LAYER + r"layer_norm\2.\3"),
            (_BLOCK + r"attn\.qkv\.(weight|bias)", _LAYER + r"self_attn.qkv.\2"),
            (_BLOCK + r"attn\.proj\.(weight|bias)", _LAYER + r"self_attn.projection.\2"),
            (_BLOCK + r"mlp\.(fc[12])\.(weight|bias)", _LAYER + r"mlp.\2.\3"),
            (r"visual_encoder\.norm\.(weight|bias)", r"vision_model.post_layernorm.\1"),
        )
    ),
    _to_both(r"vision_proj\.(weight|bias)", r"visual_projection.\1", r"vision_proj.\1"),
    _to_both(r"text_proj\.(weight|bias)", r"text_projection.\1", r"text_proj.\1"),
    # Matching alone attends from the text to the image.
    Rule(r"(text_encoder\.encoder\.layer\.\d+\.crossattention\..*)", _PREFIX + r"\1"),
    Rule(r"(itm_head\.(?:weight|bias))", _PREFIX + r"\1"),
    _to_both(r"text_encoder\.((?:embeddings|encoder)\..*)", r"text_model.\1", r"text_encoder.\1"),
]


def recognises(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has BLIP's two towers and both projections of its contrast."""
    names = checkpoint.tensors.keys()
    return {"visual_encoder.cls_token", "vision_proj.weight", "text_proj.weight"} <= names and any(
        name.startswith("text_encoder.encoder.layer.") for name in names
    )


def convert(
    checkpoint: Checkpoint, config: Mapping[str, Any] | None, tokenizer: str | os.PathLike[str] | None
) -> Conversion:
    """The bi-encoder, and the retrieval model with its matching head beside it.

    Args:
        checkpoint: Of BLIP_ITM, BLIP_Retrieval or ChatIR.
        config: None for published sizes. Read of it: `vision` (image_size, heads, layer_norm_eps) or BLIP's own top-level
            `image_size`; `med_config`, BLIP's settings of the text tower; `max_length`, tokens at which a text is cut.
            Another image_size than the checkpoint's resizes the position embeddings, as BLIP's own loading does.
        tokenizer: bert-base-uncased as a folder, a vocab.txt, a tokenizer.json or a Hub name; with or without [DEC], [ENC].

    Returns:
        The conversion; `beside["itm"]` is the `BlipForImageTextRetrieval` with its processor.

    Raises:
        ConversionError: If the keys or the tokenizer do not fit, or head counts are missing.
    """
    given = dict(config or {})
    mapped = map_keys(checkpoint.tensors, RULES, family="blip")
    position = "vision_model.embeddings.position_embedding"
    settings = _settings(checkpoint.tensors, given)
    vision, text = settings["vision_config"], settings["text_config"]
    grid = vision["image_size"] // vision["patch_size"]
    for name in (position, _PREFIX + position):
        mapped.tensors[name] = _resized_positions(mapped.tensors[name], grid)

    limit = min(int(given.get("max_length", CAPTION_TOKENS)), text["max_position_embeddings"])
    words = _tokenizer(tokenizer, text["vocab_size"]) if tokenizer is not None else None
    if words is not None:
        text["sep_token_id"] = text["eos_token_id"] = words.sep_token_id

    bi_encoder = BlipBiEncoderModel(BlipBiEncoderConfig(text, vision, projection_dim=settings["projection_dim"])).eval()
    itm = BlipForImageTextRetrieval(
        BlipConfig(
            text_config={**text, "is_decoder": True},
            vision_config=vision,
            image_text_hidden_size=settings["projection_dim"],
            projection_dim=settings["projection_dim"],
        )
    ).eval()
    load_exactly(bi_encoder, _part(mapped, itm=False), family="blip", made=("logit_scale",))
    load_exactly(itm, _part(mapped, itm=True), family="blip")
    bi_encoder.config.logit_scale_init_value = float(bi_encoder.logit_scale.detach())

    size = {"height": vision["image_size"], "width": vision["image_size"]}
    pictures = BlipImageProcessorPil(size=size, resample=3)
    notes = [
        f"The folder is the bi-encoder, a sentence-transformers model of {settings['projection_dim']}-d vectors. Its "
        f"subfolder {ITM} is transformers' BlipForImageTextRetrieval with cross-attention and matching head; "
        "mmembed.rerankers.blip_itm.load_blip_itm makes a CrossEncoder of it.",
        f"A text is cut at {limit} tokens. BLIP cuts captions at {CAPTION_TOKENS} and ChatIR dialogues at "
        f"{DIALOGUE_TOKENS}: pass max_length in the configuration, set model.max_seq_length, or use encode_dialogues.",
    ]
    if "temp" not in checkpoint.tensors:
        notes.append("The checkpoint has no temperature; logit_scale starts where BLIP's training does, at 1 / 0.07.")
    conversion = Conversion(bi_encoder, mapped, notes=notes, image_processor=pictures)
    if words is None:
        conversion.missing.append(
            "a tokenizer: pass --tokenizer with bert-base-uncased as a folder, a vocab.txt or a tokenizer.json."
        )
        conversion.beside[ITM] = (itm, pictures)
    else:
        # Each saves its own limit of tokens.
        conversion.beside[ITM] = (itm, BlipProcessor(pictures, _tokenizer(tokenizer, text["vocab_size"], limit)))
        conversion.processor = DualEncoderProcessor(
            words, image_size=vision["image_size"], resize="squash", resample=3, max_text_length=limit
        )
    return conversion


def _settings(tensors: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes as the weights have them; from the configuration what weights do not tell."""
    vision_given = given.get("vision", {})
    med = given.get("med_config", given if "num_attention_heads" in given else {})
    width, _, patch, _ = tensors["visual_encoder.patch_embed.proj.weight"].shape
    patches = tensors["visual_encoder.pos_embed"].shape[1] - 1
    image_size = int(vision_given.get("image_size", given.get("image_size", math.isqrt(patches) * patch)))
    if image_size % patch:
        raise ConversionError(f"image_size={image_size} is no multiple of the patches of {patch} pixels.")
    act = vision_given.get("act", "gelu")
    if act not in _ACTIVATIONS:
        raise ConversionError(f"vision.act={act!r}; BLIP's vision tower has {' or '.join(_ACTIVATIONS)}.")
    vision = {
        "hidden_size": width,
        "intermediate_size": tensors["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _count(tensors, "visual_encoder.blocks."),
        "num_attention_heads": _heads(vision_given.get("heads"), width, "vision.heads"),
        "image_size": image_size,
        "patch_size": patch,
        "hidden_act": _ACTIVATIONS[act],
        "layer_norm_eps": float(vision_given.get("layer_norm_eps", 1e-6)),
        "initializer_range": 0.02,
    }
    words = tensors["text_encoder.embeddings.word_embeddings.weight"]
    text = {
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "encoder_hidden_size": width,
        "intermediate_size": tensors["text_encoder.encoder.layer.0.intermediate.dense.weight"].shape[0],
        "num_hidden_layers": _count(tensors, "text_encoder.encoder.layer."),
        "num_attention_heads": _heads(med.get("num_attention_heads"), words.shape[1], "med_config.num_attention_heads"),
        "max_position_embeddings": tensors["text_encoder.embeddings.position_embeddings.weight"].shape[0],
        "hidden_act": med.get("hidden_act", "gelu"),
        "layer_norm_eps": float(med.get("layer_norm_eps", 1e-12)),
        "hidden_dropout_prob": med.get("hidden_dropout_prob", 0.1),
        "attention_probs_dropout_prob": med.get("attention_probs_dropout_prob", 0.1),
        "pad_token_id": med.get("pad_token_id", 0),
        "bos_token_id": words.shape[0] - 2,  # [DEC]
    }
    return {
        "vision_config": vision,
        "text_config": text,
        "projection_dim": tensors["vision_proj.weight"].shape[0],
    }


def _heads(given: int | None, width: int, name: str) -> int:
    if given is None and width % _HEAD_WIDTH:
        raise ConversionError(
            f"a tower is {width} wide, which is no published size (base 768, large 1024), and weights do not tell how many "
            f"attention heads it has: pass the original's configuration with {name}."
        )
    heads = int(given) if given is not None else width // _HEAD_WIDTH
    if heads < 1 or width % heads:
        raise ConversionError(f"{name}={heads} does not divide the tower's width of {width}.")
    return heads


def _count(tensors: Mapping[str, torch.Tensor], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in tensors if name.startswith(prefix))


def _resized_positions(positions: torch.Tensor, grid: int) -> torch.Tensor:
    """(1, 1 + patches, width) for a square of `grid` patches a side; the class token's is left alone."""
    old = math.isqrt(positions.shape[1] - 1)
    if old * old != positions.shape[1] - 1:
        raise ConversionError(f"visual_encoder.pos_embed has {positions.shape[1] - 1} patches, which are no square.")
    if old == grid:
        return positions
    patches = positions[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1].float(), resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _part(mapped: Mapped, *, itm: bool) -> Mapped:
    """The tensors of one of the two models, by its own names."""
    return Mapped(
        {name.removeprefix(_PREFIX): t for name, t in mapped.tensors.items() if name.startswith(_PREFIX) == itm}
    )


def _tokenizer(source: str | os.PathLike[str] | None, vocab_size: int, limit: int | None = None) -> Any:
    """BERT's tokenizer with BLIP's two tokens as its last."""
    path = Path(os.fspath(source or ""))
    try:
        if path.suffix == ".json" and path.is_file():
            names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
            words: Any = PreTrainedTokenizerFast(tokenizer_file=str(path), **names)
        elif path.is_file():
            words = BertTokenizer(str(path))
        else:
            words = AutoTokenizer.from_pretrained(os.fspath(source or ""))
    except (OSError, ValueError, KeyError) as error:
        raise ConversionError(f"the tokenizer {source} cannot be read: {str(error).splitlines()[0]}") from error
    words.add_special_tokens({"bos_token": _DECODE, "additional_special_tokens": [_ENCODE]})
    ids = words.convert_tokens_to_ids([_DECODE, _ENCODE])
    if len(words) != vocab_size or ids != [vocab_size - 2, vocab_size - 1]:
        raise ConversionError(
            f"the tokenizer {source} has {len(words)} tokens with {_DECODE} and {_ENCODE} at {ids}, and the checkpoint "
            f"{vocab_size}, where they are the last two; published checkpoints take bert-base-uncased."
        )
    if limit is not None:
        words.model_max_length = min(words.model_max_length, limit)
    return words
