"""What the repository's pages claim of the code, held to the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import mmembed

REPOSITORY = Path(__file__).resolve().parents[1]


def page(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_every_test_that_security_names_is_there() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", page("SECURITY.md"))
    assert len(named) >= 8
    for file, name in named:
        functions = {node.name: node for node in ast.parse(page(file)).body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"SECURITY.md names {file}::{name}, which is not there"


def test_the_changelog_knows_the_version() -> None:
    assert mmembed.__version__ in page("CHANGELOG.md")


def test_setup_has_one_truth() -> None:
    """Metadata in setup.cfg alone; each direct dependency's tested version in the constraints."""
    assert not (REPOSITORY / "setup.py").exists()
    assert "[project]" not in page("pyproject.toml")
    block = re.search(r"install_requires =\n((?:    .+\n)+)", page("setup.cfg"))
    assert block is not None
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in page("constraints.txt").splitlines() if "==" in line
    }
    assert {re.split(r"[<>=]", line.strip())[0] for line in block[1].splitlines()} <= pinned
    assert "torchvision" not in pinned


def test_no_page_or_file_names_a_machine_or_an_index() -> None:
    hidden = re.compile(r"(^|[^\w.])/(home|root|mnt|opt)/|(--|_|extra-)index-?url|find-?links", re.M)
    files = [
        path
        for pattern in (
            "*.md",
            "*.cfg",
            "*.toml",
            "*.txt",
            "Makefile",
            ".ci/*",
            "accelerate_configs/*",
            "mmembed/**/*.py",
        )
        for path in REPOSITORY.glob(pattern)
    ]
    assert len(files) > 30
    for path in files:
        assert not hidden.search(path.read_text(encoding="utf-8")), path.name
