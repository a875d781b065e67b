"""Between two models or more: their weights averaged, so that what one learnt does not cost all that another knew.

Two models that were trained from the same start lie in one valley of the loss, and so do the points between them:

    theta(alpha) = (1 - alpha) * theta_start + alpha * theta_trained                    (WiSE-FT)
    theta = mean over k of theta_k, each trained from the same start                    (model soup)

(Wortsman et al. 2022, https://huggingface.co/papers/2109.01903 and https://huggingface.co/papers/2203.05482.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def average_weights(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of several models' weights.

    Args:
        states: `state_dict()` of each model; the same names, shapes and types.
        weights: One a model; they add up to 1.

    Returns:
        Name → tensor. Floating-point tensors (running statistics too) are averaged in at least float32 and given back in
        their own type; others (counters, positions) are those of the model with the largest weight.

    Raises:
        ValueError: If the models do not have the same tensors, or the weights do not add up to 1.

    Example:
        >>> start, trained = {"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([2.0, 0.0])}
        >>> average_weights([start, trained], [0.75, 0.25])
        {'w': tensor([0.5000, 3.0000])}
    """
    if not states or len(states) != len(weights):
        raise ValueError(f"average_weights: {len(states)} models and {len(weights)} weights; give one weight a model.")
    if abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"average_weights: the weights {list(weights)} add up to {sum(weights):g}, not to 1.")
    first = states[0]
    for number, state in enumerate(states[1:], start=2):
        if differing := sorted(set(first) ^ set(state)):
            raise ValueError(
                f"model 1 and model {number} differ in {len(differing)} tensors, first {differing[0]!r}; only models of "
                "one architecture, trained from one start, can be averaged."
            )
        for name, tensor in first.items():
            if tensor.shape != state[name].shape:
                raise ValueError(
                    f"{name!r} has the shape {tuple(tensor.shape)} in model 1 and {tuple(state[name].shape)} in model "
                    f"{number}; only models of one architecture can be averaged."
                )
    heaviest = max(range(len(states)), key=lambda number: weights[number])
    averaged = {}
    for name, tensor in first.items():
        if not tensor.is_floating_point():
            averaged[name] = states[heaviest][name].clone()
            continue
        total = torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
        for state, weight in zip(states, weights):
            if weight:  # so that alpha = 0 and 1 are the models themselves, whatever the other holds
                total += weight * state[name].to(total)
        averaged[name] = total.to(tensor.dtype)
    return averaged


def load_averaged(model: nn.Module, states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> nn.Module:
    """Give a model the weighted mean of several models' weights, in place.

    Args:
        model: A model of the same architecture.
        states: As `average_weights`.
        weights: As `average_weights`.

    Returns:
        The model.

    Raises:
        ValueError: As `average_weights`.
    """
    model.load_state_dict(average_weights(states, weights), strict=True)
    return model


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights on the host."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def greedy_soup(
    states: Sequence[Mapping[str, Tensor]], score: Callable[[dict[str, Tensor]], float]
) -> tuple[dict[str, Tensor], list[int], list[dict[str, Any]]]:
    """A soup that takes a model in only where that does not lower the score, the best models being tried first.

    Args:
        states: The models' weights.
        score: The score of weights on validation data, higher is better.

    Returns:
        The weights of the soup, the numbers of the models in it, and what was tried: {"models", "score", "kept"}.

    Example:
        >>> states = [{"w": torch.tensor([value])} for value in (0.0, 1.0, 4.0)]
        >>> soup, taken, _ = greedy_soup(states, lambda state: -abs(state["w"].item() - 0.6))
        >>> soup["w"].item(), taken
        (0.5, [1, 0])
    """
    alone = [score(dict(state)) for state in states]
    order = sorted(range(len(states)), key=lambda number: -alone[number])
    taken = [order[0]]
    best, soup = alone[order[0]], dict(states[order[0]])
    tried: list[dict[str, Any]] = [{"models": [number], "score": alone[number]} for number in order]
    for number in order[1:]:
        wider = [*taken, number]
        mixed = average_weights([states[n] for n in wider], [1 / len(wider)] * len(wider))
        found = score(mixed)
        kept = found >= best
        tried.append({"models": wider, "score": found, "kept": kept})
        if kept:
            taken, best, soup = wider, found, mixed
    return soup, taken, tried
