"""The benchmark of the search, small: every side finds what the other of its structure finds, and tables come out."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("faiss")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = importlib.util.spec_from_file_location(f"{name}_benchmark", BENCHMARKS / f"{name}.py")
    assert found is not None and found.loader is not None
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    return made


def test_both_sides_of_a_structure_find_as_much(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    search = module("search", monkeypatch)
    options = argparse.Namespace(folder=str(tmp_path), documents=1500, queries=40, dim=32, child="vectors")
    search.write_vectors(options)
    found = {}
    for name in (*search.OURS, *search.PEERS):
        options.child = name
        found[name] = search.measure(options)
        assert found[name]["seconds"] > 0 and found[name]["one_ms"] > 0
    assert found["flat"]["recall"] == found["faiss flat"]["recall"] == found["ST semantic_search"]["recall"] == 1
    for peer, name in search.PEERS.items():
        assert found[name]["recall"] == pytest.approx(found[peer]["recall"], abs=0.03), name
    for coarse, fine in (("binary", "binary, rescored with int8"), ("pq", "pq, rescored with int8")):
        assert found[coarse]["recall"] + 0.05 < found[fine]["recall"]


@pytest.mark.slow
def test_the_commands_print_their_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--documents", "800", "--queries", "30", "--dim", "16"]
    monkeypatch.setattr(
        sys, "argv", ["search.py", *words, "--repeats", "1", "--systems", "flat", "binary", "faiss flat"]
    )
    assert module("search", monkeypatch).main() == 0
    printed = capsys.readouterr().out
    assert "| mmembed flat | 1.000 |" in printed and "| flat / faiss flat |" in printed
    monkeypatch.setattr(sys, "argv", ["exact_search.py", *words, "--threshold", "0.5"])
    assert module("exact_search", monkeypatch).main() == 0
    printed = capsys.readouterr().out
    assert printed.count("| 100% |") == 2 and "30 queries × 800 documents × 16" in printed
