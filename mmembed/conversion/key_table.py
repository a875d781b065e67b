"""How one layout's names become another's: an ordered table of rules, none of whose keys may be lost."""

from __future__ import annotations

import itertools
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
        rules: The table, by which messages name what is missing.
    """

    tensors: dict[str, torch.Tensor]
    renamed: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    rules: Sequence[Rule] = ()


def split_in_three(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(3 width, …) → query, key and value, each (width, …)."""
    if tensor.ndim == 0 or tensor.shape[0] % 3:
        raise ValueError("it is not query, key and value in one")
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
    mapped = Mapped({}, rules=rules)
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
        try:
            changed = rule.change(tensor) if rule.change is not None else tensor
        except (RuntimeError, ValueError, IndexError) as error:
            shape = tuple(tensor.shape)
            raise ConversionError(f"{family}: {name} has the shape {shape}, which does not fit: {error}.") from error
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
        ConversionError: Naming every key that is missing, left over, or of another shape, by its name in the checkpoint
            where that can be told.
    """
    given: dict[str, str] = {}
    for name, targets in mapped.renamed:
        for target in targets:
            given[target] = f"{given[target]} and {name}" if target in given else name
    wanted = model.state_dict()
    optional = [re.compile(pattern) for pattern in made]
    absent = [n for n in wanted if n not in mapped.tensors and not any(p.fullmatch(n) for p in optional)]
    missing = list(dict.fromkeys(source_name(name, mapped.rules) or name for name in absent))
    extra = list(dict.fromkeys(given.get(name, name) for name in mapped.tensors if name not in wanted))
    misshapen = [
        f"{given.get(name, name)} as {name} {tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
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
            f"the checkpoint does not fit {type(model).__name__} ({family}): {'; '.join(problems)}. Is the configuration the checkpoint's own? Nothing was written."
        )
    values = {name: tensor.to(wanted[name].dtype) for name, tensor in mapped.tensors.items()}
    model.load_state_dict({**{name: wanted[name] for name in wanted if name not in values}, **values})


def source_name(target: str, rules: Sequence[Rule]) -> str | None:
    """What a checkpoint calls the key that would become `target`.

    Args:
        target: A name as in transformers.
        rules: The table.

    Returns:
        A name that the table maps there; None where its patterns are not plain enough to be read backwards.

    Example:
        >>> rules = [Rule(r"blocks\\.(\\d+)\\.ln_([12])\\.(weight|bias)", r"layers.\\1.layer_norm\\2.\\3")]
        >>> source_name("layers.7.layer_norm2.bias", rules)
        'blocks.7.ln_2.bias'
    """
    for rule in rules:
        for template in (rule.target,) if isinstance(rule.target, str) else rule.target:
            if template and (found := re.fullmatch(_backwards(template), target)):
                name = _filled(rule.pattern, {int(group[1:]): text for group, text in found.groupdict().items()})
                match = re.fullmatch(rule.pattern, name)
                if match is not None and match.expand(template) == target:
                    return name
    return None


def _backwards(template: str) -> str:
    """The pattern of the names that a template gives, with a group g1 for \\1."""
    pattern, met = "", set()
    for part in re.split(r"(\\\d+)", template):
        if part[:1] != "\\":
            pattern += re.escape(part)
        else:
            pattern += f"(?P=g{part[1:]})" if part in met else f"(?P<g{part[1:]}>.+?)"
            met.add(part)
    return pattern


def _filled(pattern: str, groups: Mapping[int, str]) -> str:
    """The pattern with its groups replaced by what they stand for, those that may be left out being left out."""
    numbers = itertools.count(1)

    def text(match: re.Match[str]) -> str:
        return groups.get(next(numbers), "") if not match[0].startswith("(?:") else "" if match[1] else match[0]

    return re.sub(r"\((?:\?:)?[^()]*\)(\?)?", text, pattern).replace("\\.", ".")


def shown(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
