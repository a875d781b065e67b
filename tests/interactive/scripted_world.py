"""Candidates, questions and answers small enough to compute every score by hand."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from datasets import Dataset
from PIL import Image

from mmembed.interactive.candidate_views import CandidateViews
from mmembed.interactive.preference_scores import PreferenceState
from mmembed.interactive.questions import Answer, DialogueState, Question, Turn

IDS = tuple(f"c{number:02d}" for number in range(16))
#: Which candidates each question is true of.
TRUE = {
    "Is it striped?": set(IDS[8:]),
    "Is it a mug?": set(IDS),
    "Is it red?": set(IDS[4:12]),
    "Is it made of zinc?": {IDS[0]},
    "Does it glow in the dark?": set(),
}


class World:
    """Answers by `TRUE`; knows what an answer says of each candidate.

    Args:
        silent: (target, question) pairs that get no answer.
        wrong: those that get the wrong one.
    """

    def __init__(self, silent: set[tuple[str, str]] = frozenset(), wrong: set[tuple[str, str]] = frozenset()) -> None:
        self.silent, self.wrong = silent, wrong
        self.asked: list[tuple[str, str]] = []

    def answer(self, target_id: str, question: Question) -> Answer:
        self.asked.append((target_id, question.text))
        if (target_id, question.text) in self.silent:
            return Answer("", "unknown", "script")
        said = (target_id in TRUE[question.text]) != ((target_id, question.text) in self.wrong)
        return Answer("yes" if said else "no", "yes" if said else "no", "script")

    def likelihood(self, question: Question, answer: Answer, ids) -> np.ndarray:
        holds = np.array([id in TRUE[question.text] for id in ids])
        return (holds if answer.label == "yes" else ~holds).astype(np.float64)


class Asks:
    """Asks the questions of a list, one for each seed in turn."""

    def __init__(self, texts) -> None:
        self.texts = list(texts)
        self.seeds: list[int] = []

    def ask(self, state: DialogueState) -> Question | None:
        self.seeds.append(state.seed)
        text = self.texts[state.seed % len(self.texts)]
        return None if text is None else asks(text)


def asks(text: str, attribute: str | None = None) -> Question:
    return Question(text, ("yes", "no"), attribute=attribute, provenance={"questioner": "script"})


def state(
    key: str = "s", target: str = IDS[15], *, seed: int = 0, shown=IDS[:5], turns: tuple[Turn, ...] = ()
) -> PreferenceState:
    """A belief that falls from the first candidate to the last by a factor of .9 each."""
    belief = 0.9 ** np.arange(len(IDS))
    return PreferenceState(key, target, DialogueState("a mug", turns, IDS, belief / belief.sum(), tuple(shown), seed))


def views(size: int = 40) -> CandidateViews:
    rng = np.random.default_rng(0)
    rows: list[Mapping] = []
    for id in IDS:
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(stream, "PNG")
        rows.append({"id": id, "image": {"bytes": stream.getvalue(), "path": None}, "text": f"mug {id}"})
    return CandidateViews(Dataset.from_list(rows))
