"""The command that a card tells is the one that was run, and tells nothing else."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

import pytest

from mmembed.jobs.options import parse_options
from mmembed.jobs.told_command import data_hashes, told_command
from mmembed.jobs.train_options import TrainOptions


def parsed(words: list[str]) -> TrainOptions:
    return parse_options(TrainOptions, words, prog="mmembed train")


def test_the_command_gives_the_same_options_again() -> None:
    words = ["--items", "shoes.jsonl", "--ks", "1", "7", "--catalogue", '{"products": 60, "language": "zh"}',
             "--no_resume", "--text_column", "null", "--num_train_epochs", "3", "--loss", "MatryoshkaLoss",
             "--loss_arguments", '{"dims": [8, 4]}', "--model", "owner/clip", "--query_use", "fused"]  # fmt: skip
    first = parsed(words)
    command = told_command("train", first)
    assert command.startswith("mmembed train --")
    again = parsed(shlex.split(command)[2:])
    for field in ("items", "ks", "catalogue", "resume", "text_column", "model", "query_use"):
        assert getattr(again, field) == getattr(first, field), field
    assert [json.loads(str(v)) if k == "loss_arguments" else str(v) for k, v in again.extra.items()] == [
        json.loads(str(v)) if k == "loss_arguments" else str(v) for k, v in first.extra.items()
    ]
    assert told_command("train", again) == command


@pytest.mark.security
def test_folders_and_secrets_of_a_machine_are_not_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_SECRET123")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "anna").write_text("x")
    words = ["--items", "/home/anna/shoes.jsonl", "--pairs", "~anna/pairs.csv", "--model", "runs/anna", "--hub_token",
             "hf_OTHER", "--run_name", "with hf_SECRET123", "--image_root", "C:\\Users\\anna\\images", "--output_dir",
             "../anna/out"]  # fmt: skip
    command = told_command("train", parsed(words))
    assert "SECRET123" not in command and "OTHER" not in command and "hub_token" not in command
    assert "home" not in command and "Users" not in command and "runs/" not in command and ".." not in command
    assert "--items shoes.jsonl" in command and "--model anna" in command


def test_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"x" * 3_000_000)
    (tmp_path / "set" / "inner").mkdir(parents=True)
    (tmp_path / "set" / "inner" / "b").write_bytes(b"b")
    (tmp_path / "set" / "c").write_bytes(b"c")
    found = data_hashes([tmp_path / "a.jsonl", None, tmp_path / "set", tmp_path / "gone"])
    lines = f"c {hashlib.sha256(b'c').hexdigest()}\ninner/b {hashlib.sha256(b'b').hexdigest()}\n"
    assert found == {
        "a.jsonl": hashlib.sha256(b"x" * 3_000_000).hexdigest(),
        "set/": hashlib.sha256(lines.encode()).hexdigest(),
    }
    (tmp_path / "set" / "c").rename(tmp_path / "set" / "d")
    assert data_hashes([tmp_path / "set"])["set/"] != found["set/"]
