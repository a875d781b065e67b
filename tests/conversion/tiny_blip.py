"""A tiny BLIP checkpoint in the original layout, made in code."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch

WORDS = "a red mug green hat blue lamp dog the quick brown fox jumps over lazy is park in there , ? . no yes".split()
LETTERS = list(string.ascii_lowercase + string.digits)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = list(dict.fromkeys([*SPECIAL, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS), "[DEC]", "[ENC]"]))
WIDTH, TEXT_WIDTH, DIM, PATCH, GRID, LAYERS, POSITIONS, QUEUE = 24, 16, 12, 8, 3, 2, 64, 6

# What the weights do not tell, in the keys of the original's own configuration.
CONFIG: dict[str, Any] = {
    "vision": {"heads": 3, "layer_norm_eps": 1e-6, "act": "gelu exact"},
    "med_config": {
        "num_attention_heads": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
}


def write_tokenizer(folder: Path) -> Path:
    """A vocab.txt whose last two lines are [DEC] and [ENC]."""
    path = folder / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return path


def original_state_dict(seed: int = 0, *, training: bool = False) -> dict[str, torch.Tensor]:
    """The weights of BLIP_ITM, or of BLIP_Retrieval with all that its training keeps.

    Args:
        seed: Of the weights.
        training: Add the momentum copies, the queues and the temperature.
    """
    random = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * (shape[-1] if len(shape) == 2 else 24) ** -0.5

    state: dict[str, torch.Tensor] = {}

    def linear(name: str, out: int, width: int) -> None:
        state[f"{name}.weight"] = weight(out, width)
        state[f"{name}.bias"] = weight(out) * 0.5

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + weight(width) * 0.3, weight(width) * 0.3

    state["visual_encoder.cls_token"] = weight(1, 1, WIDTH)
    state["visual_encoder.pos_embed"] = weight(1, 1 + GRID**2, WIDTH)
    state["visual_encoder.patch_embed.proj.weight"] = weight(WIDTH, 3, PATCH, PATCH) * 0.3
    state["visual_encoder.patch_embed.proj.bias"] = weight(WIDTH)
    for number in range(LAYERS):
        block = f"visual_encoder.blocks.{number}."
        norm(f"{block}norm1", WIDTH)
        linear(f"{block}attn.qkv", 3 * WIDTH, WIDTH)
        linear(f"{block}attn.proj", WIDTH, WIDTH)
        norm(f"{block}norm2", WIDTH)
        linear(f"{block}mlp.fc1", 4 * WIDTH, WIDTH)
        linear(f"{block}mlp.fc2", WIDTH, 4 * WIDTH)
    norm("visual_encoder.norm", WIDTH)

    embeddings = "text_encoder.embeddings."
    state[f"{embeddings}position_ids"] = torch.arange(POSITIONS)[None]
    state[f"{embeddings}word_embeddings.weight"] = torch.randn(len(VOCABULARY), TEXT_WIDTH, generator=random)
    state[f"{embeddings}position_embeddings.weight"] = weight(POSITIONS, TEXT_WIDTH)
    norm(f"{embeddings}LayerNorm", TEXT_WIDTH)
    for number in range(LAYERS):
        layer = f"text_encoder.encoder.layer.{number}."
        for kind, width in (("attention", TEXT_WIDTH), ("crossattention", WIDTH)):
            linear(f"{layer}{kind}.self.query", TEXT_WIDTH, TEXT_WIDTH)
            linear(f"{layer}{kind}.self.key", TEXT_WIDTH, width)
            linear(f"{layer}{kind}.self.value", TEXT_WIDTH, width)
            linear(f"{layer}{kind}.output.dense", TEXT_WIDTH, TEXT_WIDTH)
            norm(f"{layer}{kind}.output.LayerNorm", TEXT_WIDTH)
        linear(f"{layer}intermediate.dense", 2 * TEXT_WIDTH, TEXT_WIDTH)
        linear(f"{layer}output.dense", TEXT_WIDTH, 2 * TEXT_WIDTH)
        norm(f"{layer}output.LayerNorm", TEXT_WIDTH)
    linear("vision_proj", DIM, WIDTH)
    linear("text_proj", DIM, TEXT_WIDTH)
    linear("itm_head", 2, TEXT_WIDTH)

    if training:
        for name in [name for name in state if not name.startswith("itm_head")]:
            tower, _, rest = name.partition(".")
            state[f"{tower}_m.{rest}"] = state[name].clone()
        state["temp"] = torch.tensor(0.05)
        state["image_queue"], state["text_queue"] = weight(DIM, QUEUE), weight(DIM, QUEUE)
        state["idx_queue"] = torch.full((1, QUEUE), -100)
        state["ptr_queue"] = torch.zeros(1, dtype=torch.int64)
    return state
