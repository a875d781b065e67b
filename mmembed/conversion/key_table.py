"""How one layout's names become another's: an ordered table of rules, none of whose keys may be lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmembed.conversion.checkpoint_reading import ConversionError

Change = Callable[[torch.Tensor], Any]


@dataclass(frozen=True)
class Rule:
    """One line of a key table.

    Args:
        pattern: Regular expression that matches the whole of a source name.
        target: Template of the name, with `\\1` or `\\g<name>` for groups; several where one tensor becomes several;
            empty where it is dropped on purpose.
        change: Function of the tensor: another tensor, or as many as there are targets. None leaves it as it is.
        reason: Why it is dropped.
    """

    pattern: str
    target: str | tuple[str, ...] = ()
    change: Change | None = None
    reason: str = ""


@dataclass
class Mapped:
    """What became of each key.

    Attributes:
        tensors: Target name → tensor.
        renamed: (source name, target names).
        dropped: (source name, reason).
    """

    tensors: dict[str, torch.Tensor]
    renamed: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)


def split_in_three(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(3 width, …) → query, key and value, each (width, …)."""
    return tuple(part.clone() for part in tensor.chunk(3, dim=0))


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    """(in, out), used as x @ P → a linear layer's (out, in)."""
    return tensor.t().contiguous()


def map_keys(tensors: Mapping[str, torch.Tensor], rules: Sequence[Rule], *, family: str) -> Mapped:
    """Rename, split and transpose every tensor by the first rule that matches its name.

    Args:
        tensors: Source name → tensor.
        rules: The table.
        family: For messages.

    Returns:
        The tensors under their new names, and what became of each old one.

    Raises:
        ConversionError: Naming the keys that no rule covers, or that would overwrite one another.

    Example:
        >>> rules = [Rule(r"visual\\.proj", "visual_projection.weight", transposed), Rule(r"queue", reason="of training")]
        >>> mapped = map_keys({"visual.proj": torch.zeros(4, 2), "queue": torch.zeros(9)}, rules, family="clip")
        >>> mapped.tensors["visual_projection.weight"].shape, mapped.dropped
        (torch.Size([2, 4]), [('queue', 'of training')])
    """
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    mapped = Mapped({})
    unknown = []
    for name, tensor in tensors.items():
        match, rule = next(((m, r) for p, r in compiled if (m := p.fullmatch(name))), (None, None))
        if match is None or rule is None:
            unknown.append(name)
            continue
        if not rule.target:
            mapped.dropped.append((name, rule.reason))
            continue
        templates = (rule.target,) if isinstance(rule.target, str) else rule.target
        changed = rule.change(tensor) if rule.change is not None else tensor
        parts = changed if isinstance(changed, tuple) else (changed,)
        names = tuple(match.expand(template) for template in templates)
        if len(parts) != len(names):
            raise ConversionError(f"{family}: {name} gave {len(parts)} tensors for {len(names)} names.")
        for target, part in zip(names, parts):
            if target in mapped.tensors:
                raise ConversionError(f"{family}: {name} would overwrite {target}, which another key already gave.")
            mapped.tensors[target] = part
        mapped.renamed.append((name, names))
    if unknown:
        raise ConversionError(
            f"{len(unknown)} keys are not of the family {family}: {shown(unknown)}. "
            "Is it another family, or a newer layout? Nothing was written."
        )
    return mapped


def load_exactly(model: nn.Module, mapped: Mapped, *, family: str, made: Sequence[str] = ()) -> None:
    """Put the tensors into a model of the same names and shapes, in float32.

    Args:
        model: The target.
        mapped: From `map_keys`.
        family: For messages.
        made: Names (or regular expressions) that the model makes itself and a checkpoint need not have.

    Raises:
        ConversionError: Naming every key that is missing, left over, or of another shape.
    """
    wanted = model.state_dict()
    optional = [re.compile(pattern) for pattern in made]
    missing = [n for n in wanted if n not in mapped.tensors and not any(p.fullmatch(n) for p in optional)]
    extra = [name for name in mapped.tensors if name not in wanted]
    misshapen = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
        for name, tensor in mapped.tensors.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    problems = [
        f"{len(names)} {what}: {shown(names)}"
        for what, names in (("missing", missing), ("left over", extra), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise ConversionError(
            f"the checkpoint does not fit {type(model).__name__} ({family}); names as in transformers: "
            f"{'; '.join(problems)}. Is the configuration the checkpoint's own? Nothing was written."
        )
    values = {name: tensor.to(wanted[name].dtype) for name, tensor in mapped.tensors.items()}
    model.load_state_dict({**{name: wanted[name] for name in wanted if name not in values}, **values})


def shown(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
