"""A folder is held by one process, as long as that lives (tests/training/test_stages.py kills one that holds)."""

from __future__ import annotations

import os
from pathlib import Path

from mmembed.training.run_lock import LOCK, hold_run, release_run, run_holder, write_whole


def test_held_twice_by_one_process_is_held_once(tmp_path: Path) -> None:
    hold_run(tmp_path)
    hold_run(tmp_path / ".")
    holder = run_holder(tmp_path)
    assert holder is not None and holder["pid"] == os.getpid() and holder["host"]
    release_run(tmp_path)
    assert run_holder(tmp_path) is None
    release_run(tmp_path)


def test_a_lock_file_left_behind_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text('{"pid": 1}')
    assert run_holder(tmp_path) is None
    hold_run(tmp_path)
    release_run(tmp_path)


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.json", "1")
    write_whole(tmp_path / "a.json", "22")
    assert (tmp_path / "a.json").read_text() == "22" and len(list(tmp_path.iterdir())) == 1
