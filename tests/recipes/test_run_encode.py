"""The recipe alone and under `accelerate launch`: the same files, and a stop by a faulty row that ends all processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.jobs.tiny_jobs import write_shop
from tests.recipes.test_ft_embedding import ROOT, start
from tests.tiny_models import tiny_dual_encoder

RECIPE = str(ROOT / "recipes" / "encode.py")
TOGETHER = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    tiny_dual_encoder().save_pretrained(str(folder / "model"))
    write_shop(folder / "shop", 20)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_processes_write_what_one_writes(folder: Path) -> None:
    given = ["--items", "shop/items.jsonl", "--model", "model", "--shard_rows", "4", "--use", "text", "fused"]
    alone = start([sys.executable, RECIPE, *given, "--output_dir", "alone"], folder)
    assert alone.returncode == 0, alone.stderr[-3000:]
    both = start([sys.executable, *TOGETHER, RECIPE, *given, "--output_dir", "both"], folder)
    assert both.returncode == 0, both.stderr[-3000:]
    assert files(folder / "both") == files(folder / "alone") and len(files(folder / "alone")) == 22
    assert both.stdout.count("20 vectors of 8 numbers") == 2  # said once, by the first
    assert "encode, process 1 of 2" in both.stderr


@pytest.mark.slow
def test_a_faulty_image_ends_all_processes_and_is_named(folder: Path) -> None:
    write_shop(folder / "broken", 20)
    (folder / "broken" / "images" / "6.png").write_bytes(b"<html>")  # of the second process's share
    given = ["--items", "broken/items.jsonl", "--model", "model", "--shard_rows", "4", "--use", "image"]
    done = start([sys.executable, *TOGETHER, RECIPE, *given, "--output_dir", "stopped"], folder)
    assert done.returncode != 0 and "image of id 's6': not an image" in done.stderr
    assert not (folder / "stopped" / "manifest.json").exists()


def test_help_is_quick_and_says_what_there_is(tmp_path: Path) -> None:
    done = start([sys.executable, "-X", "importtime", RECIPE, "--help"], tmp_path)
    assert done.returncode == 0 and "--shard_rows" in done.stdout and "--text_parts" in done.stdout
    assert " torch\n" not in done.stderr and " mmembed.jobs.encode_options\n" in done.stderr
