"""The benchmark of the reference, small: it runs, and both sides lose alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "preference_reference.py"


@pytest.mark.slow
def test_both_sides_lose_alike() -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(BENCHMARK),
            "--steps",
            "2",
            "--pairs",
            "4",
            "--batch",
            "2",
            "--repeats",
            "1",
            "--train",
            "lora",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    assert "**once / in every step**" in done.stdout
