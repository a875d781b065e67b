"""The log of rounds: what it holds, a run that was killed, another configuration, damage, and cells of CSV."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from mmembed.data.schema import DataError
from mmembed.interactive.answerers import AttributeAnswerer
from mmembed.interactive.attribute_questioner import AttributeQuestioner
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.interactive.questions import Answer, Question, Turn
from mmembed.interactive.session import InteractiveSession
from mmembed.interactive.session_log import Round, SessionLog, read_rounds, write_rounds_csv
from mmembed.interactive.simulation import Task, play_dialogues

TURN = Turn(Question("Is it “red”?", ("yes", "no"), "colour=red", 0.5, {"seed": 3}), Answer("yes", "yes", "person"))
ROUNDS = [
    Round("a", "x", "a mug", 0, None, (), None, 12.5, ["y", "z"], None),
    Round("a", "x", "a mug", 1, TURN, ["y"], 12.5, 1.0, ["x"], "budget"),
    Round("b", None, "чашка 杯子", 0, None, (), None, None, [], "uninformative"),
]


def written(path: Path, configuration: dict | None = None) -> Path:
    with SessionLog(path, configuration or {"seed": 0}) as log:
        for one in ROUNDS:
            log.write(one)
    return path


def test_rounds_come_back(tmp_path: Path) -> None:
    path = written(tmp_path / "rounds.jsonl")
    found = read_rounds(path)
    assert [(one.dialogue, one.round, one.turn, one.rank_after, one.stopped) for one in found] == [
        (one.dialogue, one.round, one.turn, one.rank_after, one.stopped) for one in ROUNDS
    ]
    with SessionLog(path, {"seed": 0}) as log:
        assert len(log.rounds("a")) == 2 and log.rounds("b")[0].query == "чашка 杯子" and log.rounds("c") == []


def test_half_a_line_is_cut_off_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = written(tmp_path / "rounds.jsonl")
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in (last + 1, last + 40, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert len(read_rounds(path)) == 2
        with SessionLog(path, {"seed": 0}) as log:
            assert log.rounds("b") == []
            log.write(ROUNDS[2])
        assert path.read_bytes() == whole
    path.write_bytes(whole[:20])  # not even the first line
    with SessionLog(path, {"seed": 1}) as log:
        assert log.rounds("a") == []


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "rounds.jsonl", {"seed": 0, "model": "a", "list": [1, 2]})
    before = path.read_bytes()
    for other, named in (
        ({"seed": 1, "model": "a", "list": [1, 2]}, "seed was 0 and is 1"),
        ({"seed": 0, "list": [1, 2]}, "model"),
    ):
        with pytest.raises(DataError, match=named):
            SessionLog(path, other)
    assert path.read_bytes() == before
    SessionLog(path, {"list": (1, 2), "model": "a", "seed": 0}).close()


@pytest.mark.security
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no round"),
        (b'{"dialogue": "a"}', "no round"),
        (None, "no round"),
    ],
)
def test_a_damaged_log_is_an_error_that_names_the_line(tmp_path: Path, line: bytes | None, message: str) -> None:
    path = written(tmp_path / "rounds.jsonl")
    lines = path.read_bytes().splitlines()
    if line is None:
        value = json.loads(lines[2])
        value["turn"]["answer"]["label"] = "maybe"
        line = json.dumps(value).encode()
    path.write_bytes(b"\n".join([*lines[:2], line, *lines[3:]]) + b"\n")
    for read in (read_rounds, lambda path: SessionLog(path, {"seed": 0})):
        with pytest.raises(DataError, match=message) as caught:
            read(path)
        assert caught.value.line == 3
    for content in (
        b"",
        b'{"format": "other"}\n',
        b'{"format": "mmembed-rounds", "version": 9, "configuration": {}}\n',
        b"x" * 100,
    ):
        path.write_bytes(content)
        with pytest.raises(DataError):
            read_rounds(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_rounds(tmp_path / "missing.jsonl")


def test_rounds_that_are_missing_or_twice_are_found(tmp_path: Path) -> None:
    path = written(tmp_path / "rounds.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    for order in ([0, 2, 1], [0, 1, 1], [0, 2]):
        path.write_bytes(b"".join(lines[at] for at in order))
        with pytest.raises(DataError, match="damaged"):
            SessionLog(path, {"seed": 0})


@pytest.mark.security
def test_cells_of_the_table_are_no_formulas(tmp_path: Path) -> None:
    hostile = '=HYPERLINK("http://x")'
    question = Question("+1?", (hostile, "no"), "@sum", 0.1, {"a": "=1"})
    with SessionLog(tmp_path / "rounds.jsonl", {}) as log:
        log.write(Round(hostile, "-x", "\t=2", 0, None, (), None, 1.0, [hostile], None))
        log.write(
            Round(
                hostile,
                "-x",
                "\t=2",
                1,
                Turn(question, Answer("=cmd", "value", "p")),
                [hostile],
                1.0,
                1.0,
                [],
                "budget",
            )
        )
    write_rounds_csv(tmp_path / "rounds.jsonl", tmp_path / "rounds.csv")
    with open(tmp_path / "rounds.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and rows[1]["rank_after"] == "1.0" and rows[0]["question"] == ""
    for row in rows:
        assert not any(
            cell[:1] in tuple("=+-@\t\r") for cell in row.values() if cell and not cell.replace(".", "").isdigit()
        )
    assert hostile in rows[1]["options"]


# --- a run that is killed ----------------------------------------------------------------------------------------


class Slow(AttributeAnswerer):
    """Answers so slowly that a run can be killed in between."""

    pause = 0.0

    def answer(self, target_id, question):
        time.sleep(self.pause)
        return super().answer(target_id, question)


class Even:
    ids = [str(number) for number in range(27)]

    def scores(self, query, turns):
        return np.zeros(27)


def play(path: str, pause: float) -> list[list[float]]:
    number = np.arange(27)
    slots = [Slot("a", ("0", "1", "2")), Slot("b", ("0", "1", "2")), Slot("c", ("0", "1", "2"))]
    table = AttributeTable(Even.ids, slots, [number % 3, number // 3 % 3, number // 9])
    session = InteractiveSession(Even(), AttributeQuestioner(table, kinds=("yes_no",)), max_rounds=6, seed=1)
    answerer = Slow(table, error=0.2, seed=5)
    answerer.pause = pause
    tasks = [Task(id, id, f"thing {id}") for id in Even.ids[::3]]
    with SessionLog(path, {"seed": 1}) as log:
        played = play_dialogues(session, tasks, answerer, log=log, show_progress_bar=False)
    return [one.ranks for one in played]


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    ranks = play(str(whole), 0.0)
    assert all(len(row) > 2 for row in ranks)
    process = multiprocessing.get_context("fork").Process(target=play, args=(str(cut), 0.02))
    process.start()
    deadline = time.monotonic() + 60
    while not (cut.exists() and cut.read_bytes().count(b"\n") >= 10) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    lines = cut.read_bytes().count(b"\n")
    assert 10 <= lines < whole.read_bytes().count(b"\n")
    with open(cut, "ab") as file:
        file.write(b'{"dialogue": "9", "targ')
    assert play(str(cut), 0.0) == ranks
    assert cut.read_bytes() == whole.read_bytes()
    modified = cut.stat().st_mtime_ns
    assert play(str(cut), 0.0) == ranks and cut.read_bytes() == whole.read_bytes()
    assert modified <= cut.stat().st_mtime_ns


def test_a_log_of_other_tasks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    play(str(path), 0.0)
    number = np.arange(27)
    table = AttributeTable(Even.ids, [Slot("a", ("0", "1", "2"))], [number % 3])
    session = InteractiveSession(Even(), AttributeQuestioner(table))
    with SessionLog(path, {"seed": 1}) as log, pytest.raises(DataError, match="about something else"):
        play_dialogues(session, [Task("0", "5", "other")], AttributeAnswerer(table), log=log, show_progress_bar=False)
    with pytest.raises(DataError, match="one key"):
        play_dialogues(
            session, [Task("0", "5", "x"), Task("0", "6", "x")], AttributeAnswerer(table), show_progress_bar=False
        )
