"""Which parameters learn, how fast, and which of them decay."""

from __future__ import annotations

import re

from torch import nn

_TOWER_NAMES = {
    "text": re.compile(
        r"(^|\.)(text_model|text_tower|text_encoder|text_embed_tokens|text_projection|language_model)\."
    ),
    "image": re.compile(r"(^|\.)(vision_model|image_tower|vision_tower|vision_encoder|visual|visual_projection)\."),
}


def freeze(model: nn.Module, patterns: list[str]) -> list[str]:
    """Stop the parameters that match from learning.

    Args:
        model: The model in training.
        patterns: "text" or "image" for a whole tower (projections that are the tower's own included in "text" and
            "image" of stock models), else regular expressions searched in parameter names.

    Returns:
        Names of the parameters that are frozen now.

    Raises:
        ValueError: If a pattern matches nothing, with some names that exist.

    Example:
        >>> freeze(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), [r"^0\\."])
        ['0.weight', '0.bias']
    """
    frozen = []
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        expression = _TOWER_NAMES.get(pattern) or re.compile(pattern)
        matching = [(n, p) for n, p in model.named_parameters() if expression.search(n)]
        if not matching:
            some = ", ".join(names[:: max(1, len(names) // 6)][:6])
            raise ValueError(f"freeze: {pattern!r} matches no parameter; some that exist: {some}.")
        for name, parameter in matching:
            parameter.requires_grad_(False)
            frozen.append(name)
    return frozen


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The largest modules in which no parameter learns; in training their dropout and batch statistics stay off.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
        >>> _ = freeze(model, [r"^0\\."])
        >>> frozen_modules(model)
        [BatchNorm1d(2, ...)]
    """
    parameters = list(model.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        return [model]
    return [module for child in model.children() for module in frozen_modules(child)]


def decay_parameter_names(model: nn.Module) -> list[str]:
    """The parameters that weight decay shrinks: matrices and kernels, no norm, bias, logit scale or temperature.

    Norms, biases and scales are exactly the parameters of fewer than two dimensions, whatever they are called.

    Example:
        >>> decay_parameter_names(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
        ['0.weight']
    """
    return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]


def layer_learning_rates(model: nn.Module, learning_rate: float, decay: float) -> dict[str, float]:
    """Learning rates that fall by `decay` with each layer further from a tower's end.

    Layer i of n learns at learning_rate * decay ** (n - 1 - i), the embeddings or stem below it at decay ** n, all that
    comes after the layers at learning_rate (Howard & Ruder 2018, https://huggingface.co/papers/1801.06146).

    Args:
        model: The model in training.
        learning_rate: The rate of the topmost layer.
        decay: In (0, 1].

    Returns:
        `learning_rate_mapping` of sentence-transformers' training arguments: regular expression → rate.

    Raises:
        ValueError: If the model has no stack of layers.

    Example:
        >>> tower = nn.Module()
        >>> tower.embeddings, tower.layers = nn.Embedding(3, 2), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        >>> layer_learning_rates(tower, 1.0, 0.5)
        {'(^|\\\\.)layers\\\\.0\\\\.': 0.5, '(^|\\\\.)layers\\\\.1\\\\.': 1.0, '(^|\\\\.)embeddings\\\\.': 0.25}
    """
    rates: dict[str, float] = {}
    stacks = _layer_stacks(model)
    if not stacks:
        raise ValueError("layer_learning_rate_decay needs towers with a stack of layers, and the model has none.")
    for name, stack in stacks.items():
        for i in range(len(stack)):
            if any(p.requires_grad for p in stack[i].parameters()):
                rates[rf"(^|\.){re.escape(f'{name}.{i}')}\."] = learning_rate * decay ** (len(stack) - 1 - i)
    for name, stack in stacks.items():
        for below in _below(model, name):
            if any(p.requires_grad for p in model.get_submodule(below).parameters()):
                rates[rf"(^|\.){re.escape(below)}\."] = learning_rate * decay ** len(stack)
    return rates


def _layer_stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The outermost lists of two or more layers, by name."""
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if (
            isinstance(module, nn.ModuleList)
            and len(module) >= 2
            and not inside
            and any(True for _ in module.parameters())
        ):
            stacks[name] = module
    return stacks


def _below(model: nn.Module, stack: str) -> list[str]:
    """Modules that come before a stack in its tower: the siblings defined before it, at each level up to the tower."""
    below: list[str] = []
    path = stack.split(".")
    for depth in range(len(path) - 1, -1, -1):
        parent, own = ".".join(path[:depth]), path[depth]
        siblings = [name for name, _ in model.get_submodule(parent).named_children()]
        before = siblings[: siblings.index(own)]
        stems = [name for name in before if re.search(r"embed|stem|patch", name)]
        below += [f"{parent}.{name}" if parent else name for name in stems]
        if stems:
            break
    return below
