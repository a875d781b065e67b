"""Which part of a tower still learns when only its last layers shall: patterns of all that lies below them."""

from __future__ import annotations

import re

from torch import nn

from mmembed.training.optimizer import _TOWER_NAMES, _below, _layer_stacks


def below_last_layers(model: nn.Module, tower: str, layers: int) -> list[str]:
    """Patterns of the parameters of a tower below its last layers: earlier layers, embeddings and stem.

    What comes after the layers (a final norm, a projection) goes on learning.

    Args:
        model: The model in training.
        tower: "text" or "image".
        layers: How many of its last layers learn; 0 leaves only what comes after them.

    Returns:
        Regular expressions for `freeze`.

    Raises:
        ValueError: If there is no such tower, it has no stack of layers, or not as many.

    Example:
        >>> tower = nn.ModuleDict({"embeddings": nn.Embedding(3, 2), "layers": nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])})
        >>> below_last_layers(nn.ModuleDict({"text_model": tower}), "text", 2)
        ['(^|\\\\.)text_model\\\\.layers\\\\.0\\\\.', '(^|\\\\.)text_model\\\\.embeddings\\\\.']
    """
    if tower not in _TOWER_NAMES:
        raise ValueError(f"last_layers: {tower!r} is no tower; it has {' and '.join(map(repr, _TOWER_NAMES))}.")
    stacks = {name: stack for name, stack in _layer_stacks(model).items() if _TOWER_NAMES[tower].search(f"{name}.")}
    if not stacks:
        raise ValueError(f"last_layers: the model has no {tower} tower with a stack of layers; freeze it by name.")
    patterns = []
    for name, stack in stacks.items():
        if not 0 <= layers <= len(stack):
            raise ValueError(f"last_layers: {tower}={layers}, but {name} has {len(stack)} layers.")
        patterns += [rf"(^|\.){re.escape(f'{name}.{number}')}\." for number in range(len(stack) - layers)]
        if layers < len(stack):
            patterns += [rf"(^|\.){re.escape(below)}\." for below in _below(model, name)]
    return patterns
