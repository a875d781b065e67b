"""What was tried in which state, in a file that an interrupted run goes on with."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from mmembed.data.schema import DataError, shown
from mmembed.interactive.preference_scores import ScoredQuestion, ScoredState
from mmembed.interactive.questions import Answer, Question

_FORMAT, _VERSION = "mmembed-tried-questions", 1
_LONGEST_LINE = 1 << 24  # characters


class TriedQuestions:
    """Scored states as JSON lines, the first of which says what was configured.

    Args:
        path: the file. What an interrupted run of the same configuration wrote is read; half a line at its end is cut off.
        configuration: whatever the scores depend on, as JSON has it.

    Raises:
        DataError: the file is none of these, is damaged, or is of another configuration, with what differs.

    Example:
        >>> path = getfixture("tmp_path") / "tried.jsonl"
        >>> with TriedQuestions(path, {"targets": 3}) as log:
        ...     log.write(ScoredState("s", "a", 12.0, ()))
        >>> with TriedQuestions(path, {"targets": 3}) as log:
        ...     log.states["s"].rank
        12.0
        >>> TriedQuestions(path, {"targets": 4})
        Traceback (most recent call last):
        mmembed.data.schema.DataError: ...: of another configuration: targets was 3 and is 4; name another file
    """

    def __init__(self, path: str | os.PathLike[str], configuration: Mapping[str, Any]) -> None:
        self.path = os.fspath(path)
        self.states: dict[str, ScoredState] = {}
        told = json.loads(json.dumps(configuration, ensure_ascii=False))
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        whole = self._read(told) if os.path.exists(self.path) else 0
        self._file = open(self.path, "r+b" if whole else "wb")  # noqa: SIM115 - closed by close()
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            self._put({"format": _FORMAT, "version": _VERSION, "configuration": told})

    def __enter__(self) -> TriedQuestions:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, state: ScoredState) -> None:
        """Append a state; once this returns, a run that is killed finds it again."""
        self.states[state.key] = state
        self._put(dataclasses.asdict(state))

    def _put(self, value: Mapping[str, Any]) -> None:
        line = json.dumps(value, ensure_ascii=False, default=str)
        self._file.write((line + "\n").encode("utf-8", "backslashreplace"))
        self._file.flush()

    def _read(self, told: dict[str, Any]) -> int:
        """Read what is whole; its length in bytes."""
        whole = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
                if not line.endswith(b"\n"):
                    break  # being written when the run was killed
                where: dict[str, Any] = {"file": self.path, "line": number}
                try:
                    value = json.loads(line.decode("utf-8"))
                except (ValueError, RecursionError) as error:
                    raise DataError(f"not JSON in UTF-8 ({error})", **where) from None
                if number == 1:
                    _check_header(value, told, where)
                else:
                    state = _state(value, where)
                    self.states[state.key] = state
                whole += len(line)
        if not whole and os.path.getsize(self.path):
            raise DataError("no file of tried questions; name another one", file=self.path)
        return whole


def _check_header(value: Any, told: Mapping[str, Any], where: dict[str, Any]) -> None:
    before = value.get("configuration") if isinstance(value, dict) else None
    if not isinstance(before, dict) or value.get("format") != _FORMAT:
        raise DataError(f"found {shown(value)}; no file of tried questions, name another one", **where)
    if value.get("version") != _VERSION:
        raise DataError(f"version {shown(value.get('version'))}, this mmembed reads {_VERSION}", **where)
    for name in sorted({*before, *told}):
        if before.get(name) != told.get(name):
            was, is_now = (json.dumps(one.get(name), ensure_ascii=False)[:60] for one in (before, told))
            message = f"of another configuration: {name} was {was} and is {is_now}; name another file"
            raise DataError(message, file=where["file"])


def _state(value: Any, where: dict[str, Any]) -> ScoredState:
    try:
        questions = []
        for found in value["questions"]:
            asked = found["question"]
            questions.append(
                ScoredQuestion(
                    **{
                        **found,
                        "question": Question(**{**asked, "options": tuple(asked["options"])}),
                        "answers": tuple(Answer(**answer) for answer in found["answers"]),
                        "gains": tuple(map(float, found["gains"])),
                        "ranks": tuple(map(float, found["ranks"])),
                    }
                )
            )
        return ScoredState(str(value["key"]), str(value["target_id"]), float(value["rank"]), tuple(questions))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"no tried state ({error}); the file is damaged", **where) from None
