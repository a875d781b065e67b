"""Dialogues with an answerer in the place of a person → the rank of each target after each round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tqdm.auto import tqdm

from mmembed.data.schema import DataError
from mmembed.interactive.questions import Answerer, Questioner
from mmembed.interactive.session import Dialogue, InteractiveSession
from mmembed.interactive.session_log import Round, SessionLog

_TOP = 10  # ids of the best candidates that a round of the log names


@dataclass(frozen=True)
class Task:
    """Something to look for.

    Args:
        key: names the dialogue; each once.
        target_id: what is looked for.
        query: what is asked for first.
    """

    key: str
    target_id: str
    query: str


@dataclass(frozen=True)
class Played:
    """A dialogue that was played.

    Args:
        task: what was looked for.
        ranks: the target's rank by the query alone and after each answer, from 1.
        stopped: why it stopped.
    """

    task: Task
    ranks: list[float]
    stopped: str


def play_dialogues(
    session: InteractiveSession,
    tasks: Sequence[Task],
    answerer: Answerer,
    *,
    questioner_of: Callable[[Task], Questioner] | None = None,
    success_at: int | None = None,
    log: SessionLog | None = None,
    show_progress_bar: bool = True,
) -> list[Played]:
    """Play dialogues, each until it stops.

    Args:
        session: how candidates are ranked and what is asked.
        tasks: what is looked for.
        answerer: answers for each target.
        questioner_of: gives each task a questioner of its own, as replaying released questions needs.
        success_at: stop a dialogue when its target stands among so many; None: play on, as tables of ranks by round need.
        log: takes every round. Dialogues that it holds whole are not played again; one that was cut off goes on with the
            answers that it holds.
        show_progress_bar: show one.

    Returns:
        What was played, in the order of the tasks.

    Raises:
        DataError: two tasks of one key, a target that is no candidate, or a log that does not fit the session.

    Example:
        >>> from mmembed.interactive.answerers import AttributeAnswerer
        >>> from mmembed.interactive.attribute_questioner import AttributeQuestioner
        >>> from mmembed.interactive.attribute_table import AttributeTable, Slot
        >>> from mmembed.interactive.rankers import TextRanker
        >>> from mmembed.search.lexical import LexicalIndex
        >>> import numpy as np
        >>> index = LexicalIndex.build(["a", "b", "c"], ["mug", "mug", "mug"])
        >>> table = AttributeTable(index.ids, [Slot("colour", ("red", "blue"))], [np.array([0, 1, 1])])
        >>> session = InteractiveSession(TextRanker(index), AttributeQuestioner(table))
        >>> played = play_dialogues(session, [Task("1", "a", "mug")], AttributeAnswerer(table), show_progress_bar=False)
        >>> played[0].ranks, played[0].stopped
        ([2.0, 1.0], 'uninformative')
    """
    if len({task.key for task in tasks}) < len(tasks):
        raise DataError("two tasks have one key; a dialogue is named once", file="tasks")
    played = []
    for task in tqdm(tasks, desc="dialogues", unit="dialogue", disable=not show_progress_bar):
        before = log.rounds(task.key) if log is not None else []
        if before and (before[0].query, before[0].target) != (task.query, task.target_id):
            raise DataError(
                f"dialogue {task.key!r} is about something else in the log", file=log.path if log else "log"
            )
        if before and before[-1].stopped is not None:
            played.append(Played(task, [_rank(one) for one in before], before[-1].stopped))
            continue
        dialogue = session.start(
            task.query,
            key=task.key,
            questioner=questioner_of(task) if questioner_of else None,
            target_id=task.target_id,
            success_at=success_at,
            turns=[one.turn for one in before if one.turn is not None],
        )
        ranks = [_rank(one) for one in before]
        if not before:
            ranks.append(dialogue.rank_of(task.target_id))
            _note(log, dialogue, task, None, ranks[-1], [])
        while dialogue.question is not None:
            shown = dialogue.shown
            dialogue.answer(answerer.answer(task.target_id, dialogue.question))
            ranks.append(dialogue.rank_of(task.target_id))
            _note(log, dialogue, task, ranks[-2], ranks[-1], shown)
        played.append(Played(task, ranks, str(dialogue.stopped)))
    return played


def _note(
    log: SessionLog | None, dialogue: Dialogue, task: Task, before: float | None, after: float, shown: list[str]
) -> None:
    if log is None:
        return
    turn = dialogue.turns[-1] if dialogue.turns else None
    top = dialogue.ids(_TOP)
    log.write(
        Round(
            task.key, task.target_id, task.query, len(dialogue.turns), turn, shown, before, after, top, dialogue.stopped
        )
    )


def _rank(one: Round) -> float:
    if one.rank_after is None:
        raise DataError(f"round {one.round} of dialogue {one.dialogue!r} has no rank", file="log")
    return one.rank_after
