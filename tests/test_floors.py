"""The house's structure, as data and as checks: what may import what, what nothing is called, and what is never written.

Each check is a function over a folder, so that it is itself tested on a small tree where the rule is broken.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Imports point down only. A room is a package or a module directly under mmembed/.
FLOORS = {
    8: ["recipes"],
    7: ["cli"],
    6: ["jobs"],  # a verb opens the app that it is named for
    5: ["apps", "bridges"],
    4: ["mining", "evaluation", "interactive", "export"],  # siblings do not import each other
    3: ["search"],
    2: ["training", "encode", "rerankers", "conversion"],
    1: ["data", "models", "losses", "chat_endpoint"],
    0: ["images", "distributed", "statistics", "ranking_metrics", "pages", "whole_files", "prompt_safety"],
}
# Modules that are one room with another.
PARTS = {
    "__main__": "cli",
    "image_decoding": "images",
    "image_loading": "images",
    "image_paths": "images",
    "image_scanning": "images",
    "lettering": "pages",
    "embeddings": "encode",
    "embedding_formats": "encode",
    "dataset_encoding": "encode",
    "encoding_batches": "encode",
    "encoding_ranks": "encode",
    "encoding_fingerprints": "encode",
    "encoding_plan": "encode",
}
# Rooms of one floor that may still import each other, (from, to).
SAME_FLOOR: set[tuple[str, str]] = set()

DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core"}
# A file of a model that others load from the Hub without mmembed.
STANDALONE = re.compile(r"models/[^/]+/(configuration|modeling|processing)_[^/]+\.py$")
# Where a dangerous call is right after all: path → what is allowed there. Say why beside each.
ALLOWED_CALLS: dict[str, set[str]] = {}

ROOM_FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}


def python_files(root: Path, *folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((root / folder).rglob("*.py"))


def imported_modules(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import in a file; `from a import b` gives a.b, relative ones are made absolute."""
    parts = path.relative_to(root).with_suffix("").parts
    package = parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value


def room_of(path: Path, root: Path) -> str:
    first = path.relative_to(root / "mmembed").parts[0].removesuffix(".py")
    return PARTS.get(first, first)


def import_faults(root: Path) -> list[str]:
    """Imports in mmembed/ that point up, or sideways."""
    faults = []
    for path in python_files(root, "mmembed"):
        here, name = room_of(path, root), path.relative_to(root).as_posix()
        if here == "__init__":  # the public names: lazy, every floor
            continue
        if here not in ROOM_FLOOR:
            faults.append(f"{name}: the room {here!r} is on no floor; add it to FLOORS")
            continue
        for line, module in imported_modules(path, root):
            parts = module.split(".")
            if parts[0] == "recipes":
                faults.append(f"{name}:{line}: imports {module}; nobody imports a recipe")
            if parts[0] != "mmembed" or module in ("mmembed", "mmembed.__version__"):
                continue
            there = PARTS.get(parts[1], parts[1])
            if there == here:
                continue
            if there not in ROOM_FLOOR:
                faults.append(f"{name}:{line}: imports {module}; import a name from the module that defines it")
            elif ROOM_FLOOR[there] >= ROOM_FLOOR[here] and (here, there) not in SAME_FLOOR:
                up = "up" if ROOM_FLOOR[there] > ROOM_FLOOR[here] else "sideways"
                faults.append(f"{name}:{line}: {here} (floor {ROOM_FLOOR[here]}) imports {up}: {module}")
    return faults


def recipe_faults(root: Path) -> list[str]:
    """Files that import a recipe, and recipes that could be imported."""
    faults = [f"recipes/{path.name}: recipes are no package" for path in (root / "recipes").glob("__init__.py")]
    for path in python_files(root, "mmembed", "recipes", "tests", "benchmarks"):
        for line, module in imported_modules(path, root):
            if module.split(".")[0] == "recipes":
                faults.append(f"{path.relative_to(root).as_posix()}:{line}: imports {module}; nobody imports a recipe")
    return faults


def standalone_faults(root: Path) -> list[str]:
    """Files of a model that need mmembed, though the Hub loads them without it."""
    faults = []
    for path in python_files(root, "mmembed"):
        name = path.relative_to(root).as_posix()
        if STANDALONE.search(name):
            here = name.removesuffix(".py").rpartition("/")[0].replace("/", ".")
            for line, module in imported_modules(path, root):
                if module.split(".")[0] == "mmembed" and not module.startswith(f"{here}."):
                    faults.append(f"{name}:{line}: imports {module}; this file must load without mmembed")
    return faults


def drawer_faults(root: Path) -> list[str]:
    """Files and folders named for no question that they answer."""
    return [
        f"{path.relative_to(root).as_posix()}: name it for the one question it answers"
        for path in python_files(root, "mmembed", "recipes", "tests", "benchmarks")
        if DRAWERS & {part.removesuffix(".py").removeprefix("test_") for part in path.relative_to(root).parts}
    ]


def dangerous_calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of each call that runs what a file says, however it is spelt."""
    loaders = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module, name = node.value.id, node.attr
            if module in loaders and name in ("load", "loads", "Unpickler", "open"):
                yield node.lineno, f"{module}.{name}"
            if module == "yaml" and name in (
                "load",
                "load_all",
                "unsafe_load",
                "full_load",
                "UnsafeLoader",
                "FullLoader",
                "Loader",
            ):
                yield node.lineno, f"yaml.{name}"
        elif isinstance(node, ast.ImportFrom) and node.module in loaders | {"yaml"}:
            for alias in node.names:
                if alias.name in (
                    "load",
                    "loads",
                    "load_all",
                    "unsafe_load",
                    "full_load",
                    "Unpickler",
                    "UnsafeLoader",
                    "Loader",
                ):
                    yield node.lineno, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            yield from _dangerous_setting(node.value.lineno, node.arg, node.value.value)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    yield from _dangerous_setting(value.lineno, key.value, value.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec", "os.system", "os.popen"):
            yield node.lineno, f"{ast.unparse(node.func)}("


def _dangerous_setting(line: int, name: object, value: object) -> Iterator[tuple[int, str]]:
    if (name, value) in (("weights_only", False), ("allow_pickle", True), ("trust_remote_code", True), ("shell", True)):
        yield line, f"{name}={value}"


def call_faults(root: Path) -> list[str]:
    """Calls in mmembed/ that run what a file says, beyond those allowed by name."""
    faults = []
    for path in python_files(root, "mmembed"):
        name = path.relative_to(root).as_posix()
        for line, what in dangerous_calls(ast.parse(path.read_text(encoding="utf-8"))):
            if what not in ALLOWED_CALLS.get(name, set()):
                faults.append(f"{name}:{line}: {what}")
    return faults


CHECKS = [import_faults, recipe_faults, standalone_faults, drawer_faults, call_faults]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_stands(check) -> None:
    assert check(REPOSITORY) == []


def test_the_contributors_page_has_the_same_floors() -> None:
    rows = re.findall(r"^\| (\d) \| (.+) \|$", (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    assert {int(floor): rooms.split(", ") for floor, rooms in rows} == FLOORS


def test_every_allowed_call_is_still_made() -> None:
    for name, allowed in ALLOWED_CALLS.items():
        found = {what for _, what in dangerous_calls(ast.parse((REPOSITORY / name).read_text(encoding="utf-8")))}
        assert allowed <= found, f"{name}: no longer needs {allowed - found}; take it out of ALLOWED_CALLS"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


GOOD = {
    "mmembed/__init__.py": "from mmembed.models.loading import load_model\n",
    "mmembed/images.py": "from mmembed.image_paths import ImageError\nimport PIL\n",
    "mmembed/image_paths.py": "import os\n",
    "mmembed/data/reading.py": "from mmembed import __version__\nfrom mmembed.data.schema import x\nfrom mmembed.images import y\n",
    "mmembed/models/dual/modeling_dual.py": "import torch\nfrom .configuration_dual import C\nfrom transformers import utils\n",
    "mmembed/evaluation/retrieval.py": "from mmembed import ranking_metrics\nfrom ..search.index import i\n",
    "mmembed/cli.py": "import mmembed.jobs.train\nfrom importlib import import_module\nimport_module('mmembed.jobs.train')\n",
    "recipes/ft.py": "from mmembed.jobs.train import main\nimport yaml\nyaml.safe_load('a')\n",
    "mmembed/jobs/train.py": "import torch, yaml\ntorch.load('a', weights_only=True)\nd = {'trust_remote_code': False}\n# pickle.load\n",
}


def test_a_sound_tree_has_no_faults(tmp_path: Path) -> None:
    tree(tmp_path, GOOD)
    for check in CHECKS:
        assert check(tmp_path) == []


@pytest.mark.parametrize(
    ("check", "name", "text", "fault"),
    [
        (import_faults, "mmembed/images.py", "import mmembed.data.schema", "images (floor 0) imports up: mmembed.data.schema"),
        (import_faults, "mmembed/images.py", "from mmembed import data", "imports up: mmembed.data"),
        (import_faults, "mmembed/images.py", "from .data import schema", "imports up: mmembed.data.schema"),
        (import_faults, "mmembed/data/x.py", "def f():\n    from ..models import loading", ":2: data (floor 1) imports sideways"),
        (import_faults, "mmembed/data/formats/x.py", "from ...training import t", "data (floor 1) imports up"),
        (import_faults, "mmembed/data/__init__.py", "from ..encode import t", "data (floor 1) imports up"),
        (import_faults, "mmembed/mining/x.py", "from mmembed.evaluation.retrieval import e", "imports sideways"),
        (import_faults, "mmembed/images.py", "from mmembed.statistics import s", "imports sideways"),
        (import_faults, "mmembed/search/x.py", "import_module('mmembed.jobs.train')", "search (floor 3) imports up"),
        (import_faults, "mmembed/search/x.py", "from mmembed import load_model", "import a name from the module that defines it"),
        (import_faults, "mmembed/search/x.py", "if TYPE_CHECKING:\n    import mmembed.cli", ":2: search (floor 3) imports up"),
        (import_faults, "mmembed/newroom/x.py", "", "the room 'newroom' is on no floor"),
        (import_faults, "mmembed/jobs/x.py", "import recipes.ft", "nobody imports a recipe"),
        (recipe_faults, "recipes/other.py", "from recipes import ft", "nobody imports a recipe"),
        (recipe_faults, "tests/test_x.py", "from recipes.ft import main", "nobody imports a recipe"),
        (recipe_faults, "recipes/__init__.py", "", "recipes are no package"),
        (standalone_faults, "mmembed/models/dual/modeling_dual.py", "from mmembed.images import i", "must load without mmembed"),
        (standalone_faults, "mmembed/models/dual/processing_dual.py", "from ...images import i", "must load without mmembed"),
        (standalone_faults, "mmembed/models/dual/configuration_dual.py", "import mmembed", "must load without mmembed"),
        (standalone_faults, "mmembed/models/dual/modeling_dual.py", "from ..other.modeling_other import o", "must load without"),
        (drawer_faults, "mmembed/data/utils.py", "", "mmembed/data/utils.py: name it"),
        (drawer_faults, "mmembed/core/x.py", "", "name it"),
        (drawer_faults, "tests/test_helpers.py", "", "name it"),
        (call_faults, "mmembed/data/x.py", "import pickle\n\npickle.load(f)", "mmembed/data/x.py:3: pickle.load"),
        (call_faults, "mmembed/data/x.py", "from pickle import loads", "pickle.loads"),
        (call_faults, "mmembed/data/x.py", "torch.load(f, weights_only=False)", "weights_only=False"),
        (call_faults, "mmembed/data/x.py", "np.load(f,\n  allow_pickle=True)", ":2: allow_pickle=True"),
        (call_faults, "mmembed/data/x.py", "yaml.load(f, Loader=yaml.Loader)", "yaml.load"),
        (call_faults, "mmembed/data/x.py", "AutoModel.from_pretrained(n, trust_remote_code=True)", "trust_remote_code=True"),
        (call_faults, "mmembed/data/x.py", "k = {'trust_remote_code': True}", "trust_remote_code=True"),
        (call_faults, "mmembed/data/x.py", "eval(text)", "eval("),
        (call_faults, "mmembed/data/x.py", "subprocess.run(c, shell=True)", "shell=True"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_found(tmp_path: Path, check, name: str, text: str, fault: str) -> None:
    tree(tmp_path, {**GOOD, name: text})
    faults = check(tmp_path)
    assert len(faults) >= 1 and any(fault in found for found in faults), faults
