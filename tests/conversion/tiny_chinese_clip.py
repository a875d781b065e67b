"""Tiny Chinese-CLIPs in cn_clip's own layout, made in code: a ViT and a ResNet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WORDS = "a the red blue green mug lamp hat desk wool dog fox quick brown jumps over lazy word colour".split()
CHARACTERS = list("红色杯子蓝绿帽灯的一只狗")
PIECES = [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
LETTERS = [piece[2:] for piece in PIECES]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *'",.!', *WORDS, *CHARACTERS, *LETTERS, *PIECES]
VOCABULARY = list(dict.fromkeys(VOCABULARY))

_TEXT = {
    "vocab_size": len(VOCABULARY),
    "text_hidden_size": 16,
    "text_intermediate_size": 24,
    "text_max_position_embeddings": 32,
    "text_num_attention_heads": 2,
    "text_num_hidden_layers": 2,
    "text_attention_probs_dropout_prob": 0.1,
    "text_hidden_act": "gelu",
    "text_hidden_dropout_prob": 0.1,
    "text_initializer_range": 0.02,
    "text_type_vocab_size": 2,
}
CONFIG = {
    "embed_dim": 12,
    "image_resolution": 32,
    "vision_layers": 2,
    "vision_width": 24,
    "vision_patch_size": 8,
    "vision_head_width": 8,
    **_TEXT,
}
CONFIG_RESNET = {
    "embed_dim": 12,
    "image_resolution": 64,
    "vision_layers": "[1,2,1,1]",  # as in cn_clip's RN50.json
    "vision_width": 4,
    "vision_patch_size": None,
    "vision_head_width": 32,
    **_TEXT,
}


def write_tokenizer(folder: Path) -> Path:
    path = Path(folder) / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return path


def _draw(seed: int | None) -> Callable[..., Tensor]:
    """A source of random tensors; without a seed, of tensors that have a shape alone."""
    if seed is None:
        return lambda *shape, std=None: torch.empty(shape, device="meta")
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, std: float | None = None) -> Tensor:
        inputs = 1
        for extent in shape[1:]:
            inputs *= extent
        return torch.randn(*shape, generator=generator) * (std if std is not None else inputs**-0.5)

    return draw


def _text_tensors(draw: Callable[..., Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    width, inner = config["text_hidden_size"], config["text_intermediate_size"]
    tensors = {
        "bert.embeddings.word_embeddings.weight": draw(config["vocab_size"], width, std=1.0),
        "bert.embeddings.position_embeddings.weight": draw(config["text_max_position_embeddings"], width, std=0.3),
        "bert.embeddings.token_type_embeddings.weight": draw(2, width, std=0.3),
        **_norm(draw, "bert.embeddings.LayerNorm", width),
    }
    for layer in range(config["text_num_hidden_layers"]):
        prefix = f"bert.encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            tensors |= _linear(draw, f"{prefix}.attention.self.{name}", width, width)
        tensors |= _linear(draw, f"{prefix}.attention.output.dense", width, width)
        tensors |= _norm(draw, f"{prefix}.attention.output.LayerNorm", width)
        tensors |= _linear(draw, f"{prefix}.intermediate.dense", inner, width)
        tensors |= _linear(draw, f"{prefix}.output.dense", width, inner)
        tensors |= _norm(draw, f"{prefix}.output.LayerNorm", width)
    return tensors


def _linear(draw: Callable[..., Tensor], name: str, outputs: int, inputs: int) -> dict[str, Tensor]:
    return {f"{name}.weight": draw(outputs, inputs), f"{name}.bias": draw(outputs, std=0.1)}


def _norm(draw: Callable[..., Tensor], name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + draw(width, std=0.1), f"{name}.bias": draw(width, std=0.1)}


def _heads(draw: Callable[..., Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    return {
        "text_projection": draw(config["text_hidden_size"], config["embed_dim"], std=0.3),
        "logit_scale": torch.tensor(2.5),
    }


def original_state_dict(seed: int | None = 0, config: dict[str, Any] = CONFIG) -> dict[str, Tensor]:
    """A ViT, without "module."; on the meta device without a seed."""
    draw = _draw(seed)
    width, patch = config["vision_width"], config["vision_patch_size"]
    tensors = {
        **_heads(draw, config),
        "visual.class_embedding": draw(width, std=0.3),
        "visual.positional_embedding": draw((config["image_resolution"] // patch) ** 2 + 1, width, std=0.3),
        "visual.proj": draw(width, config["embed_dim"], std=0.3),
        "visual.conv1.weight": draw(width, 3, patch, patch),
        **_norm(draw, "visual.ln_pre", width),
        **_norm(draw, "visual.ln_post", width),
    }
    for layer in range(config["vision_layers"]):
        prefix = f"visual.transformer.resblocks.{layer}"
        tensors |= {
            f"{prefix}.attn.in_proj_weight": draw(3 * width, width),
            f"{prefix}.attn.in_proj_bias": draw(3 * width, std=0.1),
        }
        tensors |= _linear(draw, f"{prefix}.attn.out_proj", width, width)
        tensors |= _norm(draw, f"{prefix}.ln_1", width) | _norm(draw, f"{prefix}.ln_2", width)
        tensors |= _linear(draw, f"{prefix}.mlp.c_fc", 4 * width, width)
        tensors |= _linear(draw, f"{prefix}.mlp.c_proj", width, 4 * width)
    return tensors | _text_tensors(draw, config)


def original_state_dict_resnet(seed: int | None = 0, config: dict[str, Any] = CONFIG_RESNET) -> dict[str, Tensor]:
    """A ResNet, without "module."; on the meta device without a seed."""
    draw = _draw(seed)
    width, blocks = config["vision_width"], json.loads(config["vision_layers"])
    tensors = _heads(draw, config)
    stem = (("1", 3, width // 2), ("2", width // 2, width // 2), ("3", width // 2, width))
    for number, inputs, outputs in stem:
        tensors[f"visual.conv{number}.weight"] = draw(outputs, inputs, 3, 3) * 2**0.5
        tensors |= _batch_norm(draw, f"visual.bn{number}", outputs)
    inputs = width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        for block in range(count):
            prefix = f"visual.layer{stage + 1}.{block}"
            shapes = ((inner, inputs, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1))
            for number, shape in enumerate(shapes, start=1):
                tensors[f"{prefix}.conv{number}.weight"] = draw(*shape) * 2**0.5
                tensors |= _batch_norm(draw, f"{prefix}.bn{number}", shape[0])
            if block == 0:
                tensors[f"{prefix}.downsample.0.weight"] = draw(4 * inner, inputs, 1, 1)
                tensors |= _batch_norm(draw, f"{prefix}.downsample.1", 4 * inner)
            inputs = 4 * inner
    positions = (config["image_resolution"] // 32) ** 2 + 1
    tensors["visual.attnpool.positional_embedding"] = draw(positions, inputs, std=0.3)
    for name in "qkv":
        tensors |= _linear(draw, f"visual.attnpool.{name}_proj", inputs, inputs)
    tensors |= _linear(draw, "visual.attnpool.c_proj", config["embed_dim"], inputs)
    return tensors | _text_tensors(draw, config)


def _batch_norm(draw: Callable[..., Tensor], name: str, width: int) -> dict[str, Tensor]:
    return _norm(draw, name, width) | {
        f"{name}.running_mean": draw(width, std=0.1),
        f"{name}.running_var": 1 + draw(width, std=0.1).abs(),
        f"{name}.num_batches_tracked": torch.tensor(7),
    }
