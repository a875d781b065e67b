"""Which process is at work in a run's folder: a lock that the system takes back when the process ends, however it ends."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: nobody can tell there whether a run is alive, and nothing keeps two apart
    fcntl = None  # type: ignore[assignment]

LOCK = ".running"
_held: dict[str, IO[str]] = {}  # a process does not see its own lock, and would lose it by looking


class RunBusyError(ValueError):
    """Another process is at work in the folder."""


def hold_run(folder: str | os.PathLike[str]) -> None:
    """Claim a run's folder for this process until it ends or releases it.

    Args:
        folder: The folder; it is made.

    Raises:
        RunBusyError: If another process holds it, with its number.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> hold_run(folder); run_holder(folder)["pid"] == os.getpid()
        True
        >>> release_run(folder); run_holder(folder) is None
        True
    """
    path = Path(folder).resolve() / LOCK
    if str(path) in _held or fcntl is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the run is held
    try:
        # a record lock, not flock: forked workers do not inherit it, so it ends with the process that trains
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        holder = _described(path)
        raise RunBusyError(
            f"{folder}: process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown machine')} is at work "
            "there; wait for it, stop it, or name another output_dir"
        ) from None
    file.seek(0)
    file.truncate()
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}, file)
    file.flush()
    _held[str(path)] = file


def release_run(folder: str | os.PathLike[str]) -> None:
    """Give a folder back; nothing happens where it is not held by this process.

    Args:
        folder: The folder.
    """
    file = _held.pop(str(Path(folder).resolve() / LOCK), None)
    if file is not None:
        file.close()


def run_holder(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The process that is at work in a folder.

    Args:
        folder: The folder.

    Returns:
        `pid`, `host` and `since` (seconds since 1970); None where nobody is at work.

    Example:
        >>> run_holder(getfixture("tmp_path")) is None
        True
    """
    path = Path(folder).resolve() / LOCK
    if str(path) in _held:
        return _described(path)
    if fcntl is None or not path.is_file():
        return None
    with open(path, encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _described(path)
    return None


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file aside and move it into place, so that a reader sees the old one or the new one.

    Args:
        path: The file; its folder is there.
        text: What it holds.
    """
    temporary = f"{os.fspath(path)}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _described(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it is being written
        return {}
    return described if isinstance(described, dict) else {}
