"""How many pairs are decided right without a look at the images: by the questions' texts, kinds or lengths alone?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from mmembed.statistics import Interval, bootstrap_interval

#: (chosen, rejected): of each, a text, a template or a length.
Sides = Sequence[tuple[Hashable, Hashable]]


def text_baselines(
    train_texts: Sequence[tuple[str, str]],
    test_texts: Sequence[tuple[str, str]],
    *,
    train_templates: Sides = (),
    test_templates: Sides = (),
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """What guesses that never saw an image reach on held-out pairs.

    "text": the question that was chosen more often in training pairs; "template" the same of what it asks about;
    "length": the longer or the shorter one, whichever was right more often in training. A guess that cannot decide is
    half right. A trained model says something of its images only where it is above all of these.

    Args:
        train_texts: (chosen, rejected) of the training pairs.
        test_texts: of the held-out ones.
        train_templates: of each, see `template_of`; () leaves them out.
        test_templates: of the held-out ones.
        clusters: (held-out pairs,) labels of pairs that depend on each other, such as their targets.
        seed: of the intervals.

    Returns:
        By name the share of held-out pairs that are decided right, with its interval; nothing where there are none.

    Example:
        >>> pairs = [("Is it red?", "Is it a big one?"), ("Is it red?", "Is it blue?")]
        >>> {name: found.mean for name, found in text_baselines(pairs, pairs).items()}
        {'text': 1.0, 'length': 0.75}
    """
    if not test_texts:
        return {}
    found = {"text": _by_rate(train_texts, test_texts)}
    if test_templates:
        found["template"] = _by_rate(train_templates, test_templates)
    lengths = [[len(one.split()) - len(other.split()) for one, other in texts] for texts in (train_texts, test_texts)]
    longer = 1 if sum(map(np.sign, lengths[0])) >= 0 else -1
    found["length"] = [_decided(longer * difference) for difference in lengths[1]]
    return {name: bootstrap_interval(values, seed=seed, clusters=clusters) for name, values in found.items()}


def _by_rate(train: Sides, test: Sides) -> list[float]:
    chosen, rejected = (Counter(side) for side in zip(*train, strict=True)) if train else (Counter(), Counter())

    def rate(key: Hashable) -> float:
        return math.log((chosen[key] + 1) / (rejected[key] + 1))

    return [_decided(rate(one) - rate(other)) for one, other in test]


def _decided(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)
