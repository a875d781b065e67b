"""Two processes encode as one does, bit for bit; one that dies takes the others with it, and a rerun goes on."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from mmembed.embeddings import Embeddings
from tests.distributed.encode_tiny import encode

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "tests" / "distributed" / "encode_tiny.py")


def member(number: int, count: int, store: str, options: dict[str, Any]) -> None:
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=count)
    os._exit(encode(options))


def together(folder: Path, count: int = 2, **options: Any) -> list[int]:
    """Real processes with a group over gloo and no launcher; their exit statuses. Forked, as importing takes longest."""
    folder.mkdir(parents=True, exist_ok=True)
    store = tempfile.mktemp()
    fork = multiprocessing.get_context("fork")
    members = [
        fork.Process(target=member, args=(number, count, store, {**options, "out": str(folder)}))
        for number in range(count)
    ]
    for one in members:
        one.start()
    for one in members:
        one.join(timeout=100)
    codes = [one.exitcode for one in members]
    for one in members:
        one.kill()
    return codes


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "vectors").iterdir()}


def shards_made(folder: Path) -> list[int]:
    return [json.loads(path.read_text())["shards"] for path in sorted(folder.glob("done-*"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    assert together(folder, 1) == [0]
    return folder


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_write_the_files_of_one(alone: Path, tmp_path: Path, count: int) -> None:
    assert together(tmp_path, count) == [0] * count
    assert files(tmp_path) == files(alone) and shards_made(tmp_path) == [6 // count] * count
    assert Embeddings.load(tmp_path / "vectors").ids == [f"item-{row}" for row in range(42)]


@pytest.mark.parametrize("launcher", ["accelerate", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_a_launcher_starts_them_too(alone: Path, tmp_path: Path, launcher: str) -> None:
    command = {
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
        "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
    }[launcher]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", *command, SCRIPT, json.dumps({"out": str(tmp_path)})]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert files(tmp_path) == files(alone) and shards_made(tmp_path) == [3, 3]


def test_worker_processes_change_no_bit(alone: Path, tmp_path: Path) -> None:
    assert together(tmp_path, 1, num_workers=2) == [0]
    assert files(tmp_path) == files(alone)


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_dies_ends_the_others_and_a_rerun_goes_on(alone: Path, tmp_path: Path, number: int) -> None:
    started = time.monotonic()
    codes = together(tmp_path, killed=[number, 2])
    assert codes[number] == -9 and codes[1 - number] == 3 and time.monotonic() - started < 60
    said = (tmp_path / f"error-{1 - number}").read_text()
    assert said.startswith(f"LaunchError: process {1 - number} of 2 lost another one") and "the same command" in said
    assert not (tmp_path / "vectors" / "manifest.json").exists() and not shards_made(tmp_path)
    whole = len(list((tmp_path / "vectors").glob("shard-*.json")))
    assert whole == 4  # all of the one that lived, and what the other had finished
    assert together(tmp_path) == [0, 0] and files(tmp_path) == files(alone)
    assert sorted(shards_made(tmp_path)) == [1, 1]  # what is missing is shared anew


def test_processes_with_different_models_are_refused(tmp_path: Path) -> None:
    assert together(tmp_path, seeds=[0, 5]) == [3, 3]
    assert "process 1 has another model than the first one" in (tmp_path / "error-1").read_text()
    assert not (tmp_path / "vectors" / "manifest.json").exists()


def test_what_is_wrong_for_the_first_is_said_by_all(alone: Path, tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / "notes.txt").write_text("mine")
    assert together(tmp_path) == [3, 3]
    for number in (0, 1):
        assert "something other than embeddings" in (tmp_path / f"error-{number}").read_text()
    assert [path.name for path in (tmp_path / "vectors").iterdir()] == ["notes.txt"]


def test_a_whole_folder_is_checked_by_all_and_encoded_by_none(alone: Path, tmp_path: Path) -> None:
    assert together(tmp_path) == [0, 0] and together(tmp_path) == [0, 0]
    assert shards_made(tmp_path) == [0, 0] and files(tmp_path) == files(alone)
    damaged = tmp_path / "vectors" / "vectors-00003.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    codes = together(tmp_path)
    assert 3 in codes and "vectors-00003.npy" in "".join(path.read_text() for path in tmp_path.glob("error-*"))


def test_a_run_that_is_killed_at_any_moment_loses_at_most_a_shard(alone: Path, tmp_path: Path) -> None:
    """kill -9 from outside, wherever it is; then once more to the end."""
    options = {"out": str(tmp_path), "seconds_a_shard": 0.3}
    running = multiprocessing.get_context("fork").Process(target=member, args=(0, 1, "", options))
    running.start()
    deadline = time.monotonic() + 100
    while len(list(tmp_path.glob("vectors/shard-*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    running.kill()
    running.join()
    kept = [path.name for path in tmp_path.glob("vectors/shard-*.json")]
    assert 2 <= len(kept) < 6
    vectors = [tmp_path / "vectors" / name.replace("shard", "vectors").replace("json", "npy") for name in kept]
    times = [path.stat().st_mtime_ns for path in vectors]
    (tmp_path / "vectors" / ".vectors-00005.npy-abcd1234").mkdir()  # as a kill in the middle of a file leaves it
    assert together(tmp_path, 1) == [0]
    assert files(tmp_path) == files(alone)  # and nothing half written stays
    assert [path.stat().st_mtime_ns for path in vectors] == times and shards_made(tmp_path) == [6 - len(kept)]
