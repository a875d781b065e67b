"""A checkpoint is whole or it is not used."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmembed.training.checkpoints import CheckpointError, newest_checkpoint, verify_checkpoint, write_manifest


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights" * 100)
    (path / "optimizer.pt").write_bytes(b"moments" * 100)
    (path / "inner" / "config.json").write_text("{}")
    write_manifest(path, {"world_size": 1})
    return path


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "inner/config.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["remove", "truncate", "zero", "flip"])
def test_any_damage_to_any_file_makes_resuming_fall_back(tmp_path: Path, name: str, damage: str) -> None:
    older, newer = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    path = newer / name
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        changed = {
            "truncate": data[:-1],
            "zero": bytes(len(data)),
            "flip": data[:1][:-1] + bytes([data[0] ^ 1]) + data[1:],
        }
        path.write_bytes(changed[damage])
    with pytest.raises(CheckpointError):
        verify_checkpoint(newer)
    found, passed_over = newest_checkpoint(tmp_path)
    assert found == older and len(passed_over) == 1 and "checkpoint-10" in passed_over[0]


def test_the_newest_is_by_number_not_by_name(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9)
    newer = checkpoint(tmp_path, 100)
    assert newest_checkpoint(tmp_path)[0] == newer


def test_what_was_said_of_the_run_comes_back(tmp_path: Path) -> None:
    assert verify_checkpoint(checkpoint(tmp_path, 1)) == {"world_size": 1}
