"""What other systems tried: rank logs and pairs with ranks, as JSON → scored states, whose strict pairs can be selected.

No two such systems name their fields alike, and none documents them; each field is found under one of the names below, or
under the one that the caller gives. Ranks tell what a question was worth; a record without them is left out and counted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmembed.data.formats import json_records
from mmembed.data.formats.dialogue import split_turn
from mmembed.data.schema import DataError, check_characters, did_you_mean, shown
from mmembed.interactive.preference_filters import Dropped
from mmembed.interactive.preference_scores import PreferenceState, ScoredQuestion, ScoredState, log_rank_gain
from mmembed.interactive.questions import Answer, DialogueState, Question, Turn

#: Field → the names under which it is found, first come first.
NAMES: dict[str, tuple[str, ...]] = {
    "target": ("target", "target_id", "target_image", "img", "image_id", "gt", "gt_image", "ground_truth"),
    "query": ("query", "caption", "context", "description", "text"),
    "dialogue": ("dialogue", "dialog", "history"),
    "images": ("images", "shown", "candidates", "image_paths", "candidate_images"),
    "state": ("state", "state_id", "sample_id", "dialog_id", "dialogue_id", "qid", "id"),
    "round": ("round", "turn", "step"),
    "question": ("question", "generated_question", "asked", "q"),
    "answer": ("answer", "reply", "a"),
    "rank_before": ("rank_before", "before_rank", "old_rank", "previous_rank", "prev_rank", "initial_rank", "original_rank", "r0"),
    "rank_after": ("rank_after", "after_rank", "new_rank", "target_rank", "rank", "rq"),
    "chosen": ("chosen", "chosen_question", "preferred", "positive", "pos"),
    "rejected": ("rejected", "rejected_question", "dispreferred", "negative", "neg"),
    "chosen_rank": ("chosen_rank", "chosen_rank_after", "rank_chosen", "positive_rank", "pos_rank"),
    "rejected_rank": ("rejected_rank", "rejected_rank_after", "rank_rejected", "negative_rank", "neg_rank"),
}  # fmt: skip
_LOG_NEEDS = ("target", "question", "rank_before", "rank_after")
_PAIR_NEEDS = ("target", "chosen", "rejected")
_RANKS = ("rank_before", "chosen_rank", "rejected_rank")
_UNSURE = ("unknown", "uncertain", "i don't know", "not sure", "n/a")


@dataclass(frozen=True)
class ForeignPreferences:
    """States that another system tried questions in.

    Args:
        scored: what was tried, with its gain.
        states: the same states, for their prompts; they know the candidates that were shown and no belief.
        left_out: records that could not be used, by reason.
        records: how many records there were.
    """

    scored: list[ScoredState]
    states: list[PreferenceState]
    left_out: Dropped
    records: int


def read_rank_log(
    path: str | os.PathLike[str], *, fields: Mapping[str, str] | None = None, first_rank: int = 1
) -> ForeignPreferences:
    """Read a log of questions with the target's rank before and after each.

    Records of one state are told by the field `state`, or else by equal target, query, dialogue, images, round and rank
    before. The same question twice in a state is two answer seeds.

    Args:
        path: JSON lines, or an array.
        fields: our name of a field → the file's, where it is none of `NAMES`.
        first_rank: what the best rank is called there, 1 or 0.

    Returns:
        The states, in the order in which they begin.

    Raises:
        DataError: a field that is missing everywhere or of the wrong type; names the file and the line.
        ValueError: `fields` names an unknown field.

    Example:
        >>> path = getfixture("tmp_path") / "log.jsonl"
        >>> _ = path.write_text('{"target": "a", "question": "Is it red?", "rank_before": 30, "rank_after": 10}')
        >>> round(read_rank_log(path).scored[0].questions[0].gain, 3)
        1.099
    """
    names = _names(fields)
    left_out = Dropped()
    groups: dict[Any, dict[str, Any]] = {}
    number = 0
    for number, (line, record) in enumerate(json_records.read(path), start=1):
        where = {"file": os.fspath(path), "line": line}
        read = _Record(record, names, where)
        if missing := [name for name in _LOG_NEEDS if read.get(name) is None]:
            _no_field(missing[0], record, names, where, first=number == 1)
            left_out.add(f"no {missing[0]}", f"line {line}")
            continue
        if read.is_empty("question"):
            left_out.add("an empty question", f"line {line}")
            continue
        state = read.state()
        group = groups.setdefault(
            read.key(state), {"state": state, "tried": {}, "rank": read.rank("rank_before", first_rank)}
        )
        tried = group["tried"].setdefault(read.text("question"), [])
        tried.append((read.rank("rank_after", first_rank), read.answer()))
    if not number:
        raise DataError("no records", file=path)
    scored, states = [], []
    for place, group in enumerate(groups.values()):
        key = f"{group['state'].key}#{place}"
        questions = tuple(_scored(text, group["rank"], found) for text, found in group["tried"].items())
        scored.append(ScoredState(key, group["state"].target_id, group["rank"], questions))
        states.append(PreferenceState(key, group["state"].target_id, group["state"].state))
    return ForeignPreferences(scored, states, left_out, number)


def read_preference_json(
    path: str | os.PathLike[str], *, fields: Mapping[str, str] | None = None, first_rank: int = 1
) -> ForeignPreferences:
    """Read pairs of a chosen and a rejected question with the ranks that they led to.

    Which of them are strict is for `select_pairs` to say: in the file a "chosen" question need not have gained anything. One
    that led to no better rank than the rejected one is left out and not turned round.

    Args:
        path: a JSON array, or JSON lines. A question is a text, a message with `value` or `content`, or a list of one.
        fields: our name of a field → the file's, where it is none of `NAMES`.
        first_rank: what the best rank is called there, 1 or 0.

    Returns:
        A state for each pair, with both questions.

    Raises:
        DataError: as `read_rank_log`.
        ValueError: as `read_rank_log`.
    """
    names = _names(fields)
    left_out = Dropped()
    scored, states = [], []
    number = 0
    for number, (line, record) in enumerate(json_records.read(path), start=1):
        where = {"file": os.fspath(path), "line": line}
        read = _Record(record, names, where)
        if missing := [name for name in _PAIR_NEEDS if read.get(name) is None]:
            _no_field(missing[0], record, names, where, first=number == 1)
            left_out.add(f"no {missing[0]}", f"line {line}")
            continue
        if missing := [name for name in _RANKS if read.get(name) is None]:
            left_out.add("no ranks", f"line {line}: {missing[0]}")
            continue
        if empty := [name for name in ("chosen", "rejected") if read.is_empty(name)]:
            left_out.add("an empty question", f"line {line}: {empty[0]}")
            continue
        before = read.rank("rank_before", first_rank)
        if read.rank("chosen_rank", first_rank) >= read.rank("rejected_rank", first_rank):
            left_out.add("the chosen question ranks no better", f"line {line}")
            continue
        found = read.state()
        key = f"{found.key}#{number}"
        questions = tuple(
            _scored(read.text(side), before, [(read.rank(f"{side}_rank", first_rank), None)])
            for side in ("chosen", "rejected")
        )
        scored.append(ScoredState(key, found.target_id, before, questions))
        states.append(PreferenceState(key, found.target_id, found.state))
    if not number:
        raise DataError("no records", file=path)
    return ForeignPreferences(scored, states, left_out, number)


class _Record:
    """A record whose fields may have other names."""

    def __init__(self, record: Mapping[str, Any], names: Mapping[str, tuple[str, ...]], where: dict[str, Any]) -> None:
        self.record, self.names, self.where = record, names, where

    def get(self, name: str) -> Any:
        return next((self.record[one] for one in self.names[name] if self.record.get(one) is not None), None)

    def called(self, name: str) -> str:
        """What the field is called in this record."""
        return next((one for one in self.names[name] if self.record.get(one) is not None), self.names[name][0])

    def written(self, name: str) -> Any:
        """What stands in a field: a text as it is or within a message, or something else."""
        value = self.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, Mapping):
            value = value.get("value", value.get("content"))
        if isinstance(value, list) and all(isinstance(block, Mapping) for block in value):
            value = "".join(str(block.get("text") or "") for block in value)
        return value

    def is_empty(self, name: str) -> bool:
        """Whether a text without words stands there, as where a questioner had nothing to ask."""
        value = self.written(name)
        return isinstance(value, str) and not value.strip()

    def text(self, name: str) -> str:
        value = self.written(name)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"found {shown(self.get(name))}, expected a text", field=self.called(name), **self.where)
        try:
            return " ".join(check_characters(value).split())
        except ValueError as error:
            raise DataError(str(error), field=self.called(name), **self.where) from None

    def rank(self, name: str, first: int) -> float:
        value = self.get(name)
        number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
        if not (math.isfinite(number) and number >= first):
            message = f"found {shown(value)}, expected a rank from {first} on"
            raise DataError(message, field=self.called(name), **self.where)
        return float(number) - first + 1

    def answer(self) -> Answer | None:
        value = self.get("answer")
        if value is None:
            return None
        text = self.text("answer")
        unsure = text.casefold().strip(" .!") in _UNSURE
        return Answer(text, "unknown" if unsure else "value", "log")

    def state(self) -> PreferenceState:
        target = self.text("target")
        query = self.text("query") if self.get("query") is not None else ""
        images = self.get("images")
        if images is not None and not (
            isinstance(images, list) and all(isinstance(one, str) and one for one in images)
        ):
            raise DataError(
                f"found {shown(images)}, expected a list of paths", field=self.called("images"), **self.where
            )
        turns = self._turns()
        if not query and turns and turns[0].question.text == "":
            query, turns = turns[0].answer.text, turns[1:]
        pool = tuple(dict.fromkeys(images or ())) or (target,)
        belief = np.full(len(pool), 1 / len(pool))
        name = self.get("state")
        key = str(name) if isinstance(name, (str, int)) else target
        state = DialogueState(query, tuple(turns), pool, belief, tuple(pool if images else ()))
        return PreferenceState(key, target, state)

    def key(self, one: PreferenceState) -> Any:
        """What records of one state share."""
        if self.get("state") is not None:
            return one.key, one.target_id, str(self.get("round"))
        state = one.state
        said = tuple((turn.question.text, turn.answer.text) for turn in state.turns)
        return (
            one.target_id,
            state.query,
            said,
            tuple(state.shown),
            str(self.get("round")),
            str(self.get("rank_before")),
        )

    def _turns(self) -> list[Turn]:
        value = self.get("dialogue")
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(turn, str) for turn in value):
            raise DataError(
                f"found {shown(value)}, expected a list of texts", field=self.called("dialogue"), **self.where
            )
        turns = []
        for place, turn in enumerate(value):
            question, answer = split_turn(turn)
            if answer is None and place == 0:  # the caption that a dialogue begins with
                turns.append(Turn(Question(""), Answer(question, "value", "log")))
            else:
                turns.append(Turn(Question(question), Answer(answer or "", "value" if answer else "unknown", "log")))
        return turns


def _names(fields: Mapping[str, str] | None) -> dict[str, tuple[str, ...]]:
    names = dict(NAMES)
    for name, theirs in (fields or {}).items():
        if name not in NAMES:
            raise ValueError(f"fields: {name!r} is none of {', '.join(NAMES)}{did_you_mean(name, NAMES)}")
        names[name] = (theirs,)
    return names


def _no_field(
    name: str, record: Mapping[str, Any], names: Mapping[str, Sequence[str]], where: dict[str, Any], *, first: bool
) -> None:
    """The first record says what the file's fields are; one that is missing there is a matter of names."""
    if first:
        known = ", ".join(names[name])
        message = f"none of {known} is here; found {list(record)[:20]}. Say what it is called: fields={{'{name}': …}}"
        raise DataError(message, field=name, **where)


def _scored(text: str, before: float, found: Sequence[tuple[float, Answer | None]]) -> ScoredQuestion:
    gains = tuple(log_rank_gain(before, after) for after, _ in found)
    answers = tuple(answer for _, answer in found if answer is not None)
    gain = sum(gains) / len(gains)
    question = Question(text, provenance={"questioner": "log"})
    return ScoredQuestion(question, gain, gain, gains, None, tuple(after for after, _ in found), answers)
