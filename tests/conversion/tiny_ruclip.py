"""A tiny ruCLIP in its own layout, made in code, with a `bpe.model` that knows some words."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789абвгдежзийклмнопрстуфхцчшщъыьэюя"
_WORDS = ["red", "mug", "green", "hat", "dog", "кошка", "машина"]


def bpe_model() -> str:
    """The text of a `bpe.model`: each character, and the merges that spell the words from left to right."""
    ids = {"▁": 4, **{letter: 5 + number for number, letter in enumerate(_LETTERS)}}
    characters = [f"{ord(token)} {number}" for token, number in ids.items()]
    merges = []
    for word in _WORDS:
        left = "▁"
        for letter in word:
            if left + letter not in ids:
                ids[left + letter] = 4 + len(ids)
                merges.append(f"{ids[left]} {ids[letter]} {ids[left + letter]}")
            left += letter
    head = f"{len(characters)} {len(merges)}"
    return "\n".join([head, *characters, *merges, "1 0 2 3"]) + "\n"


CONFIG = {
    "embed_dim": 12,
    "image_resolution": 32,
    "vision_layers": 2,
    "vision_width": 64,
    "vision_patch_size": 8,
    "context_length": 20,
    "vocab_size": 4 + sum(int(number) for number in bpe_model().split("\n", 1)[0].split()),
    "transformer_width": 16,
    "transformer_heads": 2,
    "transformer_layers": 2,
}


def write_tokenizer(folder: Path) -> Path:
    path = Path(folder) / "bpe.model"
    path.write_text(bpe_model(), encoding="ascii")
    return path


def original_state_dict(seed: int | None = 0, config: dict[str, int] = CONFIG) -> dict[str, Tensor]:
    """Of ruCLIP's own names; on the meta device without a seed."""
    generator = torch.Generator().manual_seed(seed or 0)

    def draw(*shape: int, std: float | None = None) -> Tensor:
        if seed is None:
            return torch.empty(shape, device="meta")
        inputs = torch.Size(shape[1:]).numel()
        return torch.randn(*shape, generator=generator) * (std if std is not None else inputs**-0.5)

    def norm(name: str, width: int) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + draw(width, std=0.1), f"{name}.bias": draw(width, std=0.1)}

    def blocks(prefix: str, count: int, width: int) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for number in range(count):
            block = f"{prefix}.resblocks.{number}"
            shapes = {"attn.out_proj": (width, width), "mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}
            tensors[f"{block}.attn.in_proj_weight"] = draw(3 * width, width)
            tensors[f"{block}.attn.in_proj_bias"] = draw(3 * width, std=0.1)
            for name, shape in shapes.items():
                tensors[f"{block}.{name}.weight"] = draw(*shape)
                tensors[f"{block}.{name}.bias"] = draw(shape[0], std=0.1)
            tensors |= norm(f"{block}.ln_1", width) | norm(f"{block}.ln_2", width)
        return tensors

    text, vision, patch = config["transformer_width"], config["vision_width"], config["vision_patch_size"]
    return {
        "positional_embedding": draw(config["context_length"], text, std=0.3),
        "text_projection": draw(text, config["embed_dim"], std=0.3),
        "logit_scale": torch.tensor(3.1),
        "visual.class_embedding": draw(vision, std=0.3),
        "visual.positional_embedding": draw((config["image_resolution"] // patch) ** 2 + 1, vision, std=0.3),
        "visual.proj": draw(vision, config["embed_dim"], std=0.3),
        "visual.conv1.weight": draw(vision, 3, patch, patch),
        **norm("visual.ln_pre", vision),
        **blocks("visual.transformer", config["vision_layers"], vision),
        **norm("visual.ln_post", vision),
        **blocks("transformer", config["transformer_layers"], text),
        "token_embedding.weight": draw(config["vocab_size"], text, std=1.0),
        **norm("ln_final", text),
    }
