"""What happened in every round of every dialogue, in a file that an interrupted run goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmembed.data.formats import delimited
from mmembed.data.schema import DataError, shown
from mmembed.interactive.questions import Answer, Question, Turn

_FORMAT, _VERSION = "mmembed-rounds", 1
_LONGEST_LINE = 2**22  # characters


@dataclass(frozen=True)
class Round:
    """One round of a dialogue, as the log holds it.

    Args:
        dialogue: the dialogue's key.
        target: id of what is looked for, or None where nobody knows.
        query: what was asked for first.
        round: 0 for the query alone, then 1 after the first answer, …
        turn: what was asked and answered; None in round 0.
        shown: ids of the candidates that were shown with the question.
        rank_before: the target's rank before the answer, from 1; None without a target, and in round 0.
        rank_after: its rank after it; in round 0 by the query alone.
        top: ids of the best candidates after it.
        stopped: why there is no next question; None where there is one.
    """

    dialogue: str
    target: str | None
    query: str
    round: int
    turn: Turn | None
    shown: Sequence[str]
    rank_before: float | None
    rank_after: float | None
    top: Sequence[str]
    stopped: str | None


class SessionLog:
    """Rounds as JSON lines, the first of which says what was configured.

    Args:
        path: the file. What an interrupted run of the same configuration wrote is read; half a line at its end is cut off.
        configuration: whatever the rounds depend on, as JSON has it.

    Raises:
        DataError: the file is none of these, or of another configuration, with what differs.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/rounds.jsonl"
        >>> with SessionLog(path, {"model": "a"}) as log:
        ...     log.write(Round("1", "x", "a mug", 0, None, [], None, 3.0, ["y"], None))
        >>> with SessionLog(path, {"model": "a"}) as log:
        ...     log.rounds("1")[0].rank_after
        3.0
        >>> SessionLog(path, {"model": "b"})
        Traceback (most recent call last):
        mmembed.data.schema.DataError: ...: of another configuration: model was "a" and is "b"; name another file
    """

    def __init__(self, path: str | os.PathLike, configuration: Mapping[str, Any]) -> None:
        self.path = os.fspath(path)
        told = json.loads(json.dumps(configuration, ensure_ascii=False))
        self._rounds: dict[str, list[Round]] = {}
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        whole = 0
        if os.path.exists(self.path):
            whole = _whole_length(self.path)
            lines = _lines(self.path, whole)
            header = next(lines, None)
            if header is not None:
                _check_configuration(_header(header[1], self.path), told, self.path)
            for line, value in lines:
                found = _round(value, self.path, line)
                known = self._rounds.setdefault(found.dialogue, [])
                if found.round != len(known):
                    message = f"round {found.round} of dialogue {found.dialogue!r} after {len(known)} rounds"
                    raise DataError(f"{message}; the file is damaged", file=self.path, line=line)
                known.append(found)
        self._file = open(self.path, "r+b" if whole else "wb")  # noqa: SIM115
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            self._put({"format": _FORMAT, "version": _VERSION, "configuration": told})

    def __enter__(self) -> SessionLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def rounds(self, dialogue: str) -> list[Round]:
        """The rounds of a dialogue that are there already, in order."""
        return list(self._rounds.get(dialogue, ()))

    def write(self, one: Round) -> None:
        """Append a round; once this returns, a run that is killed finds it again."""
        self._rounds.setdefault(one.dialogue, []).append(one)
        self._put(asdict(one))

    def _put(self, value: Mapping[str, Any]) -> None:
        self._file.write((json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
        self._file.flush()


def read_rounds(path: str | os.PathLike) -> list[Round]:
    """The rounds of a log, in the order in which they were played.

    Args:
        path: a file that a `SessionLog` wrote; half a line at its end is left out.

    Returns:
        The rounds.

    Raises:
        DataError: it is none.
    """
    path = os.fspath(path)
    try:
        lines = _lines(path, _whole_length(path))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from None
    header = next(lines, None)
    if header is None:
        raise DataError("empty; it is no log of rounds", file=path)
    _header(header[1], path)
    return [_round(value, path, line) for line, value in lines]


def write_rounds_csv(log: str | os.PathLike, path: str | os.PathLike) -> None:
    """Write a log as a table to look at, a row a round. A cell that a spreadsheet would run gets a `'` in front.

    Args:
        log: the log.
        path: the CSV file, replaced where it exists.

    Raises:
        DataError: the log is none.
    """
    columns = (
        "dialogue target query round question options attribute score answer label source shown rank_before rank_after "
        "stopped top provenance"
    ).split()

    def row(one: Round) -> dict[str, Any]:
        question = one.turn.question if one.turn else None
        answer = one.turn.answer if one.turn else None
        return {
            "dialogue": one.dialogue,
            "target": one.target,
            "query": one.query,
            "round": one.round,
            "question": question.text if question else None,
            "options": " | ".join(question.options) if question else None,
            "attribute": question.attribute if question else None,
            "score": question.score if question else None,
            "answer": answer.text if answer else None,
            "label": answer.label if answer else None,
            "source": answer.source if answer else None,
            "shown": " ".join(one.shown),
            "rank_before": one.rank_before,
            "rank_after": one.rank_after,
            "stopped": one.stopped,
            "top": " ".join(one.top),
            "provenance": json.dumps(question.provenance, ensure_ascii=False) if question else None,
        }

    delimited.write(path, (row(one) for one in read_rounds(log)), columns)


def _whole_length(path: str) -> int:
    """The bytes up to the last line break: what follows was cut off while it was written."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        for end in range(size, 0, -(2**16)):
            start = max(0, end - 2**16)
            file.seek(start)
            at = file.read(end - start).rfind(b"\n")
            if at >= 0:
                return start + at + 1
    if size > _LONGEST_LINE:
        raise DataError("no log of rounds", file=path)
    return 0


def _lines(path: str, length: int) -> Iterator[tuple[int, Any]]:
    with open(path, "rb") as file:
        number = 0
        while file.tell() < length:
            number += 1
            line = file.readline(_LONGEST_LINE)
            try:
                yield number, json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"not JSON in UTF-8 ({error})", file=path, line=number) from None


def _header(value: Any, path: str) -> dict[str, Any]:
    if (
        not isinstance(value, dict)
        or value.get("format") != _FORMAT
        or not isinstance(value.get("configuration"), dict)
    ):
        raise DataError(f"found {shown(value)}; no log of rounds, name another file", file=path, line=1)
    if value.get("version") != _VERSION:
        raise DataError(f"version {shown(value.get('version'))}, this mmembed reads {_VERSION}", file=path, line=1)
    return value["configuration"]


def _check_configuration(before: Mapping[str, Any], now: Mapping[str, Any], path: str) -> None:
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            was, is_now = (json.dumps(one.get(name), ensure_ascii=False)[:60] for one in (before, now))
            message = f"of another configuration: {name} was {was} and is {is_now}; name another file"
            raise DataError(message, file=path)


def _round(value: Any, path: str, line: int) -> Round:
    where: dict[str, Any] = {"file": path, "line": line}
    try:
        turn = value["turn"]
        if turn is not None:
            question = turn["question"]
            asked = Question(**{**question, "options": tuple(question["options"])})
            turn = Turn(asked, Answer(**turn["answer"]))
            if turn.answer.label not in ("yes", "no", "value", "unknown") or not isinstance(asked.provenance, dict):
                raise ValueError(f"answer {shown(turn.answer.label)}")
        found = Round(**{**value, "turn": turn})
        texts = [found.dialogue, found.query, *found.shown, *found.top]
        if turn is not None:
            texts += [turn.question.text, *turn.question.options, turn.answer.text, turn.answer.source]
        ranks = [rank for rank in (found.rank_before, found.rank_after) if rank is not None]
        if not all(isinstance(text, str) for text in texts) or not all(type(rank) in (int, float) for rank in ranks):
            raise ValueError("a text or a rank of another type")
        if type(found.round) is not int or (found.round == 0) != (turn is None):
            raise ValueError(f"round {shown(found.round)}")
        return found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"no round of a dialogue ({error})", **where) from None
