"""A query and what was said since → what is searched with: one text, or one vector.

A "no" says what is not there. Text encoders read it as if it were (ChatIR's zero-shot CLIP falls from 40 % to 28 % recall
over ten rounds), so that here it is left out of texts and vectors; the belief is where it counts, see `belief`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmembed.interactive.questions import AnswerLabel, Turn
from mmembed.models.blip_bi_encoder.dialogue_text import dialogue_text

#: A query and its turns → the text that is searched with.
QueryText = Callable[[str, Sequence[Turn]], str]
#: A query's vector (dim,) and those of its turns (turns, dim) → the vector that is searched with.
QueryVector = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]

TOLD: tuple[AnswerLabel, ...] = ("yes", "value")


def turn_text(turn: Turn) -> str:
    """A turn as ChatIR writes it: the question and then the answer.

    Example:
        >>> from mmembed.interactive.questions import Answer, Question
        >>> turn_text(Turn(Question("is it red?"), Answer("yes", "yes", "person")))
        'is it red? yes'
    """
    return f"{turn.question.text} {turn.answer.text or turn.answer.label}"


def told(turns: Sequence[Turn], labels: Collection[str] = TOLD) -> list[Turn]:
    """The turns whose answers have one of these labels."""
    return [turn for turn in turns if turn.answer.label in labels]


def caption_text(query: str, turns: Sequence[Turn]) -> str:
    """The query alone, whatever was said since.

    Example:
        >>> caption_text("a dog", [])
        'a dog'
    """
    return query


def joined_text(query: str, turns: Sequence[Turn], *, labels: Collection[str] = TOLD) -> str:
    """The query and the turns joined by ", ", as ChatIR joins them (Levy et al. 2023, https://arxiv.org/abs/2305.20062).

    Args:
        query: what was asked for first.
        turns: the questions and answers since.
        labels: which answers are told; ("yes", "no", "value", "unknown") is what ChatIR does.

    Returns:
        One text.

    Example:
        >>> from mmembed.interactive.questions import Answer, Question
        >>> turns = [Turn(Question("is it red?"), Answer("no", "no", "a")), Turn(Question("big?"), Answer("yes", "yes", "a"))]
        >>> joined_text("a dog", turns), joined_text("a dog", turns, labels=("yes", "no"))
        ('a dog, big? yes', 'a dog, is it red? no, big? yes')
    """
    return dialogue_text([query, *(turn_text(turn) for turn in told(turns, labels))])


def rewritten_text(rewrite: Callable[[list[str]], str], *, labels: Collection[str] = TOLD) -> QueryText:
    """A `QueryText` that lets something else write one caption of all that was said, as PlugIR lets a language model.

    Args:
        rewrite: takes the query and then "question? answer" of each turn, and gives one caption. It is asked once for each
            list; without a turn it is not asked.
        labels: which answers it is told.

    Returns:
        The function; it raises ValueError where `rewrite` gives no text.

    Example:
        >>> from mmembed.interactive.questions import Answer, Question
        >>> text = rewritten_text(lambda rounds: rounds[0].replace("a dog", "a red dog"))
        >>> text("a dog", [Turn(Question("is it red?"), Answer("yes", "yes", "person"))])
        'a red dog'
    """
    written: dict[tuple[str, ...], str] = {}

    def text(query: str, turns: Sequence[Turn]) -> str:
        rounds = (query, *(turn_text(turn) for turn in told(turns, labels)))
        if len(rounds) == 1:
            return query
        if rounds not in written:
            found = rewrite(list(rounds))
            if not isinstance(found, str) or not found.strip():
                raise ValueError(f"the rewrite of {rounds!r:.200} is {found!r:.80}; it must be a text")
            written[rounds] = found
        return written[rounds]

    return text


def slerp(a: ArrayLike, b: ArrayLike, weight: float) -> NDArray[np.float32]:
    """The vector on the great circle from a to b: spherical interpolation (Shoemake 1985).

    Args:
        a: (dim,) of length 1.
        b: (dim,) of length 1.
        weight: 0 gives a, 1 gives b.

    Returns:
        float32 (dim,) of length 1. Between opposite vectors no circle is the shortest; a is kept.

    Example:
        >>> slerp([1.0, 0.0], [0.0, 1.0], 0.5).round(3).tolist()
        [0.7070000171661377, 0.7070000171661377]
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    angle = np.arccos(np.clip(first @ second, -1, 1))
    if np.sin(angle) < 1e-6:
        mixed = first if angle > 1 else (1 - weight) * first + weight * second
    else:
        mixed = (np.sin((1 - weight) * angle) * first + np.sin(weight * angle) * second) / np.sin(angle)
    length = np.linalg.norm(mixed)
    return (mixed / length if length else first).astype(np.float32)


def slerp_turns(weight: float = 0.2) -> QueryVector:
    """A `QueryVector` that turns the query towards each turn's vector in order, as MERLIN does (Han et al. 2024).

    Args:
        weight: how far each time, from 0 to 1; MERLIN keeps .8 of the old query.

    Returns:
        The function.

    Example:
        >>> eye = np.eye(2, dtype=np.float32)
        >>> float(slerp_turns(0.5)(eye[0], eye[1:]) @ eye[0]).__round__(3)
        0.707
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight={weight}; it lies from 0 (the query alone) to 1 (the last turn alone)")

    def turned(query: NDArray[np.float32], turns: NDArray[np.float32]) -> NDArray[np.float32]:
        for vector in turns:
            query = slerp(query, vector, weight)
        return query

    return turned


def rocchio_turns(alpha: float = 1.0, beta: float = 0.75) -> QueryVector:
    """A `QueryVector` that adds the mean of the turns' vectors to the query's (Rocchio 1971).

    Args:
        alpha: weight of the query.
        beta: weight of the turns' mean.

    Returns:
        The function.

    Example:
        >>> eye = np.eye(2, dtype=np.float32)
        >>> rocchio_turns(1.0, 1.0)(eye[0], eye[1:]).round(3).tolist()
        [0.7070000171661377, 0.7070000171661377]
    """
    from mmembed.search.query_expansion import Rocchio

    return Rocchio(alpha=alpha, beta=beta, gamma=0.0).expand
