"""Tiny Visualized-BGE checkpoints in the original's layout, with random weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from tests.models.tiny_models import tokenizer

CONFIG: dict[str, Any] = {
    "bge_model_type": "bert",
    "bge_config": {
        "vocab_size": 120,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 36,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    },
    "eva": {
        "embed_dim": 20,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 24,
            "head_width": 12,
            "patch_size": 8,
            "mlp_ratio": 2.6667,
            "drop_path_rate": 0.0,
            "rope": True,
            "pt_hw_seq_len": 16,
            "intp_freq": True,
            "naiveswiglu": True,
            "subln": True,
            "patch_dropout": 0.5,
        },
    },
}
CONFIG_M3: dict[str, Any] = {
    "bge_model_type": "xlm-roberta",
    "bge_config": {
        "vocab_size": 120,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 34,
        "type_vocab_size": 1,
        "pad_token_id": 0,
        "layer_norm_eps": 1e-5,
    },
    "eva": {
        "embed_dim": 20,
        "vision_cfg": {
            "image_size": 42,
            "layers": 3,
            "width": 16,
            "head_width": 8,
            "patch_size": 14,
            "mlp_ratio": 2.6667,
        },
    },
}


def original_state_dict(seed: int = 0) -> dict[str, torch.Tensor]:
    """As `Visualized_base_en_v1.5.pth`, but in float32 and small."""
    return _state(CONFIG, seed)


def original_state_dict_m3(seed: int = 0) -> dict[str, torch.Tensor]:
    """As `Visualized_m3.pth`."""
    return _state(CONFIG_M3, seed)


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of 120 tokens at most, whose empty text is [2, 3]."""
    path = folder / "tokenizer"
    tokenizer(64).save_pretrained(path)
    return path


def _state(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, around: float = 0.0, std: float | None = None) -> torch.Tensor:
        spread = std if std is not None else shape[-1] ** -0.5 if len(shape) > 1 else 0.1
        return around + spread * torch.randn(*shape, generator=generator)

    state: dict[str, torch.Tensor] = {}

    def linear(name: str, out: int, into: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = draw(out, into), draw(out)

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = draw(width, around=1.0), draw(width)

    text, vision = config["bge_config"], config["eva"]["vision_cfg"]
    width, inner = text["hidden_size"], text["intermediate_size"]
    for name, rows in (
        ("word", "vocab_size"),
        ("position", "max_position_embeddings"),
        ("token_type", "type_vocab_size"),
    ):
        state[f"bge_embeddings.{name}_embeddings.weight"] = draw(text[rows], width, std=1.0)
    norm("bge_embeddings.LayerNorm", width)
    for number in range(text["num_hidden_layers"]):
        layer = f"bge_encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{layer}.attention.{part}", width, width)
        norm(f"{layer}.attention.output.LayerNorm", width)
        linear(f"{layer}.intermediate.dense", inner, width)
        linear(f"{layer}.output.dense", width, inner)
        norm(f"{layer}.output.LayerNorm", width)
    linear("bge_pooler.dense", width, width)

    eva, patch, head = vision["width"], vision["patch_size"], vision["head_width"]
    side, hidden = vision["image_size"] // patch, int(eva * vision["mlp_ratio"])
    visual = "model_visual.visual"
    state["model_visual.logit_scale"] = torch.tensor(math.log(100))
    state[f"{visual}.cls_token"] = draw(1, 1, eva)
    state[f"{visual}.pos_embed"] = draw(1, side * side + 1, eva)
    state[f"{visual}.patch_embed.proj.weight"] = draw(eva, 3, patch, patch, std=0.1)
    state[f"{visual}.patch_embed.proj.bias"] = draw(eva)
    cos, sin = _tables(side, head)
    tables = {"rope.freqs_cos": cos, "rope.freqs_sin": sin}
    state.update({f"{visual}.{name}": table for name, table in tables.items()})
    for number in range(vision["layers"]):
        block = f"{visual}.blocks.{number}"
        norm(f"{block}.norm1", eva)
        norm(f"{block}.norm2", eva)
        for name in ("q_proj", "k_proj", "v_proj"):
            state[f"{block}.attn.{name}.weight"] = draw(eva, eva)
        state[f"{block}.attn.q_bias"], state[f"{block}.attn.v_bias"] = draw(eva), draw(eva)
        norm(f"{block}.attn.inner_attn_ln", eva)
        linear(f"{block}.attn.proj", eva, eva)
        state.update({f"{block}.attn.{name}": table.clone() for name, table in tables.items()})
        linear(f"{block}.mlp.w1", hidden, eva)
        linear(f"{block}.mlp.w2", hidden, eva)
        norm(f"{block}.mlp.ffn_ln", hidden)
        linear(f"{block}.mlp.w3", eva, hidden)
    norm(f"{visual}.norm", eva)
    linear(f"{visual}.head", config["eva"]["embed_dim"], eva)
    linear("visual_proj", width, eva)
    return state


def _tables(side: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One channel pair at a time, rounded to 16 bits as the published ones are."""
    angles = torch.zeros(side * side, head)
    for row in range(side):
        for column in range(side):
            for pair in range(head // 4):
                frequency = 10000 ** (-2 * pair / (head // 2))
                for half, place in enumerate((row, column)):
                    start = half * head // 2 + 2 * pair
                    angles[row * side + column, start : start + 2] = place / side * 16 * frequency
    return angles.cos().half().float(), angles.sin().half().float()
