"""The package's own names: lazy, listed, and the same wherever they are written down."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import mmembed

HEAVY = {"torch", "transformers", "sentence_transformers", "datasets", "pyarrow", "PIL", "numpy", "yaml"}


def modules_after(statement: str) -> set[str]:
    """Every module loaded in a fresh interpreter by one statement."""
    code = f"{statement}\nimport sys\nsys.stdout.write('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split("\n"))


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = modules_after("import mmembed; dir(mmembed); mmembed.__version__")
    assert "mmembed" in loaded
    assert not HEAVY & loaded
    assert {name for name in loaded if name.startswith("mmembed.")} == set()


def test_a_name_imports_its_home_and_no_more() -> None:
    loaded = modules_after("from mmembed import load_image")
    assert "PIL" in loaded
    assert not {"torch", "transformers", "sentence_transformers"} & loaded


@pytest.mark.parametrize("name", mmembed.__all__)
def test_every_name_is_what_its_home_defines(name: str) -> None:
    home = importlib.import_module(mmembed._HOMES[name])
    value = getattr(mmembed, name)
    assert value is getattr(home, name)
    # defined there or below: a name has one home, and error messages and pickles say it
    assert value.__module__.startswith("mmembed.")


def test_the_names_are_written_down_alike() -> None:
    assert sorted(mmembed._HOMES) == mmembed.__all__
    tree = ast.parse(Path(mmembed.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name: statement.module for statement in block.body for alias in statement.names}
    assert typed == mmembed._HOMES


def test_the_names_are_listed() -> None:
    assert set(mmembed.__all__) <= set(dir(mmembed))
    namespace: dict[str, object] = {}
    exec("from mmembed import *", namespace)
    assert set(mmembed.__all__) <= set(namespace)


def test_a_wrong_name_is_an_attribute_error_with_the_nearest() -> None:
    with pytest.raises(
        AttributeError, match="module 'mmembed' has no attribute 'load_modle'; did you mean 'load_model'?"
    ):
        mmembed.load_modle  # noqa: B018
    with pytest.raises(AttributeError, match="'quite_another_thing'$"):
        mmembed.quite_another_thing  # noqa: B018
    assert not hasattr(mmembed, "__wrapped__")
    with pytest.raises(ImportError, match="load_modle"):
        exec("from mmembed import load_modle")
