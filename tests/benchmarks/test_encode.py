"""The benchmark of encoding, small: both sides make the same vectors, and every way of decoding makes every batch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.tiny_jobs import write_shop
from tests.tiny_models import tiny_bert, tiny_dual_encoder

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def encode(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sys.modules.pop("encode", None)
    import encode

    return encode


def options(tmp_path: Path, task: str, child: str) -> argparse.Namespace:
    given = {"task": task, "child": child, "folder": str(tmp_path), "shared": tmp_path, "batch_size": 4}
    return argparse.Namespace(**given, texts=12, images=12, model="")


@pytest.mark.parametrize("task", ["texts", "images"])
def test_both_sides_make_the_same_vectors(encode: Any, task: str, tmp_path: Path, monkeypatch) -> None:
    write_shop(tmp_path / "shop", 12)
    paths = [str((tmp_path / "shop" / "images" / f"{row}.png").resolve()) for row in range(12)]
    monkeypatch.setattr(encode, "texts_of", lambda shared, count: [f"word{n} {'red ' * n}" for n in range(count)])
    monkeypatch.setattr(encode, "images_of", lambda shared, count: paths[:count])
    made = tiny_bert() if task == "texts" else tiny_dual_encoder()
    monkeypatch.setattr(encode, "model_of", lambda options: made)
    for side in (encode.OURS, encode.PEER):
        found = encode.measure_one(options(tmp_path, task, side))
        assert found["items_a_second"] > 0 and found["items_a_cpu_second"] > 0
    assert encode.differences(str(tmp_path), task) < 1e-5


def test_texts_are_long_and_short_in_turns(encode: Any, shared_data: Path) -> None:
    texts = encode.texts_of(shared_data, 40)
    assert len(texts) == 40 and all(len(one) > 2 * len(other) for one, other in zip(texts[::2], texts[1::2]))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_every_batch_is_made_and_thrown_away(encode: Any, workers: str, tmp_path: Path, monkeypatch) -> None:
    write_shop(tmp_path / "shop", 10)
    paths = [str((tmp_path / "shop" / "images" / f"{row}.png").resolve()) for row in range(10)]
    monkeypatch.setattr(encode, "images_of", lambda shared, count: paths)
    monkeypatch.setattr(encode, "model_of", lambda options: tiny_dual_encoder())
    assert encode.measure_one(options(tmp_path, "decoding", workers))["seconds"] > 0
