"""Which dialogues are questions tried in, and which of their targets are the same image?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from mmembed.data.keys import items_keys
from mmembed.interactive.preference_scores import PreferenceState
from mmembed.interactive.questions import Answerer
from mmembed.interactive.session import InteractiveSession
from mmembed.interactive.simulation import Task


def dialogue_states(
    session: InteractiveSession,
    tasks: Iterable[Task],
    answerer: Answerer,
    *,
    after_rounds: Sequence[int] = (0,),
    show_progress_bar: bool = True,
) -> list[PreferenceState]:
    """Play dialogues and keep them at some of their rounds.

    Args:
        session: how candidates are ranked, and who asks the questions before.
        tasks: what is looked for.
        answerer: who answers these.
        after_rounds: after how many answers a dialogue is kept; one that stops before is not.
        show_progress_bar: show a bar.

    Returns:
        A state for each dialogue and round, whose key is the dialogue's and the round.

    Raises:
        ValueError: no round, or one below 0.
    """
    wanted = sorted(set(after_rounds))
    if not wanted or wanted[0] < 0:
        raise ValueError(f"after_rounds={list(after_rounds)}; give numbers of answers from 0 on")
    states = []
    for task in tqdm(list(tasks), desc="dialogues", unit="dialogue", disable=not show_progress_bar):
        dialogue = session.start(task.query, key=task.key, target_id=task.target_id)
        while True:
            if len(dialogue.turns) in wanted and dialogue.stopped in (None, "budget"):
                state = dialogue.state
                if not state.shown:  # of a dialogue whose budget is spent nothing is shown any more
                    shown = session.sampler(state.ids, state.probabilities, state.seed)
                    state = dataclasses.replace(state, shown=tuple(shown))
                states.append(PreferenceState(f"{task.key}#{len(dialogue.turns)}", task.target_id, state))
            if dialogue.question is None or len(dialogue.turns) >= wanted[-1]:
                break
            dialogue.answer(answerer.answer(task.target_id, dialogue.question))
    return states


def image_keys(items: Dataset, *, show_progress_bar: bool = True) -> dict[str, str]:
    """By id, a key that rows share which are the same thing: by their group, by their image's bytes, or by others between them.

    Args:
        items: ITEMS.
        show_progress_bar: show a bar while image files are read.

    Returns:
        The keys; a row without group and image has its own id. A table that grows keeps the keys of the rows it had, unless a
        new row ties two of them together.

    Example:
        >>> items = Dataset.from_dict({"id": ["a", "b", "c"], "text": ["x", "y", "z"], "group": ["1", "1", None]})
        >>> keys = image_keys(items)
        >>> keys["a"] == keys["b"], keys["c"]
        (True, 'c')
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ids = [str(id) for id in items["id"][:]]
    found = items_keys(items, show_progress_bar=show_progress_bar)[:, [0, 2]]  # group, image
    rows, kinds = np.nonzero(found)
    if not len(rows):
        return {id: id for id in ids}
    values, places = np.unique(np.stack([kinds, found[rows, kinds]], axis=1), axis=0, return_inverse=True)
    nodes = len(ids) + len(values)
    ties = coo_matrix((np.ones(len(rows)), (rows, len(ids) + places.ravel())), shape=(nodes, nodes))
    _, labels = connected_components(ties, directed=False)
    name: dict[int, str] = {}
    for label, value in zip(labels[len(ids) :].tolist(), values[:, 1].tolist()):
        name[label] = min(name.get(label, value), value)
    return {id: str(name[label]) if label in name else id for id, label in zip(ids, labels[: len(ids)].tolist())}
