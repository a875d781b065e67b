"""How answers follow from what is true of a candidate: mistakes, and "I don't know"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmembed.data.schema import DataError
from mmembed.interactive.attribute_table import AttributeTable

_CERTAIN = 1e-6  # nothing is taken for impossible


@dataclass(frozen=True)
class AnswerChannel:
    """The probabilities of answers about each attribute.

    Args:
        yes_if_true: float64 (attributes,), P(yes | the attribute holds, an answer is given).
        yes_if_false: float64 (attributes,), P(yes | it does not hold, an answer is given).
        unknown: float64 (attributes,), P(no answer), whatever is true.

    Example:
        >>> AnswerChannel.of_noise(2, error=0.1).yes(np.array([[1.0, 0.0]])).round(2).tolist()
        [[0.9, 0.1]]
    """

    yes_if_true: NDArray[np.float64]
    yes_if_false: NDArray[np.float64]
    unknown: NDArray[np.float64]

    @classmethod
    def of_noise(cls, attributes: int, *, error: float = 0.05, unknown: float = 0.05) -> AnswerChannel:
        """The same for all attributes.

        Args:
            attributes: how many.
            error: the share of answers that are wrong, from 0 to below .5.
            unknown: the share of questions that get no answer, from 0 to below 1.

        Raises:
            ValueError: a share out of range.
        """
        if not (0 <= error < 0.5 and 0 <= unknown < 1):
            raise ValueError(f"error={error}, unknown={unknown}; from 0 to below .5, and from 0 to below 1")
        filled = np.full(attributes, max(error, _CERTAIN))
        return cls(1 - filled, filled, np.full(attributes, float(unknown)))

    @classmethod
    def fit(cls, holds: ArrayLike, answers: ArrayLike, *, strength: float = 20.0) -> AnswerChannel:
        """Learn it from answers about candidates whose attributes are known.

        Each attribute's rates are drawn towards those of all attributes together, as if these had been seen `strength`
        times (the mean of a Beta posterior).

        Args:
            holds: (answered candidates, attributes), probabilities that the attribute holds; NaN leaves an answer out.
            answers: (answered candidates, attributes): 1 yes, 0 no, NaN where no answer was given.
            strength: above 0.

        Returns:
            The channel.

        Raises:
            DataError: shapes that differ, or no answer.

        Example:
            >>> holds = np.array([[1.0], [1.0], [0.0], [0.0]])
            >>> channel = AnswerChannel.fit(holds, np.array([[1.0], [0.0], [0.0], [0.0]]), strength=1e-6)
            >>> channel.yes_if_true.round(2).tolist(), channel.yes_if_false.round(2).tolist()
            ([0.5], [0.0])
        """
        true, said = np.asarray(holds, dtype=np.float64), np.asarray(answers, dtype=np.float64)
        if true.shape != said.shape or true.ndim != 2:
            raise DataError(f"holds {true.shape} and answers {said.shape}; give (candidates, attributes) of both")
        asked = ~np.isnan(true)
        given = asked & ~np.isnan(said)
        if not given.any() or not strength > 0:
            raise DataError("no answers to learn from, or a strength that is not above 0")
        true, said = np.where(asked, true, 0), np.where(given, said, 0)
        rates = []
        for weight in (true, 1 - true):
            seen, yes = (weight * given).sum(axis=0), (weight * said * given).sum(axis=0)
            overall = yes.sum() / max(seen.sum(), 1e-12)
            rates.append(np.clip((yes + strength * overall) / (seen + strength), _CERTAIN, 1 - _CERTAIN))
        overall = 1 - given.sum() / asked.sum()
        silent = (asked & ~given).sum(axis=0)
        unknown = (silent + strength * overall) / (asked.sum(axis=0) + strength)
        return cls(rates[0], rates[1], np.clip(unknown, 0, 1 - _CERTAIN))

    def yes(self, holds: NDArray[np.floating]) -> NDArray[np.float64]:
        """P(yes | an answer is given) of each candidate: (candidates, attributes) of the same shape as `holds`."""
        return self.yes_if_false + (self.yes_if_true - self.yes_if_false) * holds

    def check(self, table: AttributeTable) -> None:
        """Raise a DataError where the channel is not one of this table's attributes, or no probabilities."""
        for part in (self.yes_if_true, self.yes_if_false, self.unknown):
            if np.shape(part) != (len(table.attributes),) or not ((part >= 0) & (part <= 1)).all():
                message = f"an answer channel of shape {np.shape(part)} for {len(table.attributes)} attributes"
                raise DataError(f"{message}; each has a probability from 0 to 1", file="attributes")


def choice_probabilities(
    values: NDArray[np.floating], channel: AnswerChannel, places: slice, options: Sequence[int]
) -> NDArray[np.float64]:
    """What is answered when one of several values that exclude each other is to be named.

    The value that holds is named as often as its attribute is confirmed when it is asked about alone; else any other
    answer, each alike. What is not among the options is "something else".

    Args:
        values: (candidates, values of the slot), P(the value holds).
        channel: of all attributes.
        places: where the slot's attributes are.
        options: the numbers of the values that are named.

    Returns:
        float64 (candidates, options + 1), each row sums to 1; the last is "something else".

    Example:
        >>> channel = AnswerChannel.of_noise(3, error=0.1)
        >>> choice_probabilities(np.eye(3), channel, slice(0, 3), [0, 1]).round(2).tolist()
        [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]]
    """
    held = values[:, list(options)].astype(np.float64)
    rest = np.clip(1 - held.sum(axis=1, keepdims=True), 0, 1)
    true = np.concatenate([held, rest], axis=1)  # (candidates, options + 1): what would be right to say
    true /= true.sum(axis=1, keepdims=True)
    right = channel.yes_if_true[places]
    others = [number for number in range(len(right)) if number not in set(options)]
    kept = np.append(right[list(options)], right[others].mean() if others else right.mean())
    wrong = (1 - kept) / len(options)
    said = true * kept
    return said + (true * wrong).sum(axis=1, keepdims=True) - true * wrong
