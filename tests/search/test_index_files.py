"""A folder of an index: damaged, cut, exchanged, linked or of another model, it is an error that names both sides."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.search import index_files
from mmembed.search.index import Index

faiss = pytest.importorskip("faiss")

KINDS: dict[str, dict[str, Any]] = {
    "flat": {},
    "int8": {"precision": "int8"},
    "ivf": {"kind": "ivf", "lists": 5},
    "hnsw": {"kind": "hnsw", "neighbours": 4},
    "pq": {"kind": "pq"},
    "ivf_pq": {"kind": "ivf_pq", "lists": 5},
    "binary": {"kind": "binary", "rescore": "int8"},
}
MADE_BY = {"model": "mine", "model_fingerprint": "f" * 32, "revision": "r1"}


def embeddings(seed: int = 0, dim: int = 8, count: int = 260, **made_by: Any) -> Embeddings:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings([f"é{row}" for row in range(count)], vectors, {**MADE_BY, **made_by})


@pytest.fixture(params=KINDS)
def folder(request, tmp_path: Path) -> Path:
    Index.build(embeddings(), **KINDS[request.param]).save(tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    Index.build(embeddings()).save(tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def nothing_is_read(monkeypatch) -> None:
    """FAISS sees no file, and numpy no array, of a folder that is not what its manifest says."""

    def fail(*arguments: Any, **named: Any) -> None:
        pytest.fail(f"{arguments} was read before it was checked")

    for name in ("read_index", "read_index_binary"):
        monkeypatch.setattr(faiss, name, fail)
    monkeypatch.setattr(np, "load", fail)


def test_the_manifest_says_what_the_index_is(tmp_path: Path) -> None:
    index = Index.build(embeddings(use="text", prompt="q: ", other=1), kind="binary", rescore="int8", truncate_dim=5)
    index.save(tmp_path / "index")
    found = json.loads((tmp_path / "index" / "manifest.json").read_text(encoding="utf-8"))
    assert index_files.read_manifest(str(tmp_path / "index")) == found
    files, own = found.pop("files"), found.pop("manifest_sha256")
    assert len(own) == 64 and set(files) == {"ids.jsonl", "index.faiss", "kept.npy", "ranges.npy"}
    for name, entry in files.items():
        data = (tmp_path / "index" / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": __import__("hashlib").sha256(data).hexdigest()}
    assert found == {
        "format": "mmembed-index",
        "version": 1,
        "kind": "binary",
        "parameters": {"truncate_dim": 5, "rescore": "int8", "oversample": 4},
        "metric": "cosine",
        "normalised": True,
        **MADE_BY,
        "use": "text",
        "prompt": "q: ",
        "dim": 8,
        "calibration": {"count": 260, "of": {**MADE_BY, "use": "text"}},
        "fit": None,
        "count": 260,
        "rows": 260,
    }


@pytest.mark.security
def test_no_random_mutation_is_loaded(folder: Path, nothing_is_read: None) -> None:
    """A thousand for each kind, of every file: bits, bytes, holes, repeats, ends."""
    generator = np.random.default_rng(0)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    outcomes: Counter[str] = Counter()
    for number in range(1000):
        name = sorted(whole)[number % len(whole)]
        data = bytearray(whole[name])
        at, length = int(generator.integers(len(data))), int(generator.integers(1, 9))
        how = number // len(whole) % 6
        if how == 0:
            data[at] ^= 1 << int(generator.integers(8))
        elif how == 1:
            data[at : at + length] = generator.bytes(len(data[at : at + length]))
        elif how == 2:
            del data[at : at + length]
        elif how == 3:
            data[at:at] = data[at : at + length]
        elif how == 4:
            del data[at:]
        else:
            data += generator.bytes(length)
        if data == whole[name]:
            continue
        (folder / name).write_bytes(data)
        with pytest.raises(DataError) as error:
            Index.load(folder)
        assert error.value.file is not None and Path(error.value.file).name == name, str(error.value)
        outcomes[name] += 1
        (folder / name).write_bytes(whole[name])
    assert sum(outcomes.values()) > 980 and min(outcomes.values()) > 150


@pytest.mark.security
def test_a_file_of_another_index_is_refused(folder: Path, tmp_path: Path, nothing_is_read: None) -> None:
    settings = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    settings = {"kind": settings["kind"], **settings["parameters"]}
    Index.build(embeddings(seed=1), **settings).save(tmp_path / "other")
    for name in sorted(os.listdir(folder)):
        own = (folder / name).read_bytes()
        if name in ("manifest.json", "ids.jsonl"):  # of these two another seed has the same ids
            continue
        shutil.copy(tmp_path / "other" / name, folder / name)
        with pytest.raises(DataError, match=f"{name}.*the manifest says.*exchanged"):
            Index.load(folder)
        (folder / name).write_bytes(own)
    shutil.copy(tmp_path / "other" / "manifest.json", folder / "manifest.json")
    with pytest.raises(DataError, match="SHA-256 is .*the manifest says"):
        Index.load(folder)


@pytest.mark.security
def test_a_link_is_refused_wherever_it_leads(folder: Path, tmp_path: Path, nothing_is_read: None) -> None:
    for name in sorted(os.listdir(folder)):
        moved = tmp_path / f"moved-{name}"
        (folder / name).rename(moved)
        for target in (moved, tmp_path / "nowhere", Path("/dev/zero")):
            (folder / name).symlink_to(target)
            with pytest.raises(DataError, match=f"{name}.*link or no plain file"):
                Index.load(folder)
            (folder / name).unlink()
        with pytest.raises(DataError, match=f"{name}: missing"):
            Index.load(folder)
        os.mkfifo(folder / name)
        with pytest.raises(DataError, match=f"{name}.*no plain file"):
            Index.load(folder)
        (folder / name).unlink()
        moved.rename(folder / name)


@pytest.mark.security
def test_a_manifest_names_no_other_file(flat: Path, tmp_path: Path, nothing_is_read: None) -> None:
    about = json.loads((flat / "manifest.json").read_text(encoding="utf-8"))
    entry = about["files"]["index.faiss"]
    for files in ({"../secret": entry}, {"/etc/passwd": entry}, {"index.pickle": entry}, {"ids.jsonl": 7}, {}, []):
        changed = {**about, "files": {**about["files"], **files} if isinstance(files, dict) and files else files}
        rewritten(flat, changed)
        with pytest.raises(DataError, match="manifest.json"):
            Index.load(flat)


def rewritten(folder: Path, manifest: dict[str, Any]) -> None:
    """As one does who knows how the hash is made."""
    manifest["manifest_sha256"] = index_files._own_hash(manifest)
    (folder / "manifest.json").write_text(index_files._text(manifest), encoding="utf-8", newline="\n")


@pytest.mark.security
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", 2, "version 1"),
        ("format", "mmembed-embeddings", "no format"),
        ("kind", "flot", "did you mean 'flat'"),
        ("kind", "binary", "precision='float32' does not concern kind 'binary'"),
        ("kind", "hnsw", "incomplete"),
        ("kind", ["flat"], "'kind'"),
        ("dim", 16, "260 × 8, the manifest says IndexFlatIP of 260 × 16"),
        ("dim", 0, "'dim'"),
        ("dim", True, "'dim'"),
        ("dim", 10**30, "IndexFlatIP"),
        ("count", 259, "260 different ids in 260 lines, the manifest says 259"),
        ("rows", 259, "the manifest says 260 in 259"),
        ("rows", -1, "'rows'"),
        ("metric", "l2", "expected 'cosine'"),
        ("parameters", {}, "incomplete"),
        ("parameters", {"precision": "int8"}, "IndexScalarQuantizer of 260 × 8"),
        ("parameters", {"precision": "float32", "truncate_dim": 9}, "at most 8"),
        ("parameters", {"precision": "float32", "shape": 1}, "no setting of an index"),
        ("parameters", [1], "'parameters'"),
        ("calibration", [1], "'calibration'"),
        ("calibration", {"count": "many", "of": {}}, "'calibration'"),
    ],
)
def test_a_forged_manifest_fits_its_files_or_is_refused(flat: Path, field: str, value: Any, message: str) -> None:
    manifest = json.loads((flat / "manifest.json").read_text(encoding="utf-8"))
    rewritten(flat, {**manifest, field: value})
    with pytest.raises(DataError, match=message):
        Index.load(flat)


@pytest.mark.security
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[]", "no format"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 100_000, "not JSON|no format"),
        (b" " * (2**20 + 1), "less than a MiB"),
        (b'{"format": "mmembed-index", "version": 1}', "hash differs"),
        (b'{"format": "mmembed-index", "version": 1, "model": "\\ud800"}', "hash differs"),
    ],
)
def test_a_manifest_that_is_none_is_refused(flat: Path, data: bytes, message: str, nothing_is_read: None) -> None:
    (flat / "manifest.json").write_bytes(data)
    with pytest.raises(DataError, match=message):
        Index.load(flat)


def test_what_is_no_index_is_refused(tmp_path: Path, flat: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        Index.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="missing"):
        Index.load(tmp_path / "empty")
    embeddings().save(tmp_path / "vectors")
    with pytest.raises(DataError, match="not the manifest of an index"):
        Index.load(tmp_path / "vectors")
    (flat / "kept.npy").write_bytes(b"")
    with pytest.raises(DataError, match="kept.npy.*not in the manifest"):
        Index.load(flat)


def test_another_model_revision_dimension_or_metric_is_named_with_its_own(flat: Path, tmp_path: Path) -> None:
    for expected, message in (
        ({"model": "other"}, "'model': the index has 'mine', expected is 'other'"),
        ({"revision": "r2"}, "'revision': the index has 'r1', expected is 'r2'"),
        ({"dim": 16}, "'dim': the index has 8, expected is 16"),
        ({"metric": "dot"}, "'metric': the index has 'cosine', expected is 'dot'"),
    ):
        with pytest.raises(DataError, match=message):
            Index.load(flat, **expected)
    Index.build(Embeddings(["a"], np.eye(1, 8, dtype=np.float32))).save(tmp_path / "unknown")
    with pytest.raises(DataError, match="'model': the index does not say, and 'mine' is expected"):
        Index.load(tmp_path / "unknown", model="mine")


def test_a_model_is_known_by_its_weights(tmp_path: Path) -> None:
    from mmembed.dataset_encoding import model_fingerprint
    from tests.tiny_models import tiny_bert

    model = tiny_bert()
    Index.build(embeddings(model_fingerprint=model_fingerprint(model))).save(tmp_path / "index")
    assert len(Index.load(tmp_path / "index", model=model)) == 260
    with __import__("torch").no_grad():
        next(model.parameters()).add_(1e-3)
    with pytest.raises(DataError, match="'model_fingerprint': the index has .* expected is"):
        Index.load(tmp_path / "index", model=model)


def test_only_an_index_is_written_over(flat: Path, tmp_path: Path) -> None:
    index = Index.load(flat)
    index.remove(index.ids[:5])
    index.save(flat)
    assert len(Index.load(flat)) == 255
    embeddings().save(tmp_path / "vectors")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for there in ("vectors", "file", "full"):
        with pytest.raises(DataError, match="something other than an index"):
            index.save(tmp_path / there)
    assert (tmp_path / "file").read_text() == "mine" and Embeddings.load(tmp_path / "vectors").ids
    (tmp_path / "empty").mkdir()
    index.save(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full", "index", "vectors"]


def test_a_save_that_fails_leaves_the_old_index(flat: Path, monkeypatch) -> None:
    index = Index.load(flat)
    index.remove(index.ids[:5])

    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(faiss, "write_index", fail)
    with pytest.raises(OSError, match="No space"):
        index.save(flat)
    assert len(Index.load(flat)) == 260 and [path.name for path in flat.parent.iterdir()] == ["index"]


def test_faiss_limits_are_as_before(folder: Path) -> None:
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    Index.load(folder)
    assert (faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()) == before


@pytest.mark.security
def test_a_forged_size_takes_no_memory(flat: Path) -> None:
    """Whoever writes the manifest too can name any file; what FAISS makes of it is bounded by its size."""
    path = flat / "index.faiss"
    data = bytearray(path.read_bytes())
    about = json.loads((flat / "manifest.json").read_text(encoding="utf-8"))
    for at in range(0, 60):
        for claim in (2**40, 2**62, 2**31 - 1):
            path.write_bytes(data[:at] + claim.to_bytes(8, "little") + data[at + 8 :])
            index_files.write_manifest(
                str(flat), {k: v for k, v in about.items() if k not in ("files", "manifest_sha256")}
            )
            try:
                Index.load(flat).search(np.eye(1, 8, dtype=np.float32), 3)
            except DataError:
                continue


FORGED = """
import os, signal, sys
import numpy as np
from mmembed.data.schema import DataError
from mmembed.search import index_files
from mmembed.search.index import Index
import faiss
faiss.omp_set_num_threads(1)
folder, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
path = os.path.join(folder, "index.faiss")
with open(path, "rb") as file:
    whole = file.read()
about = {k: v for k, v in index_files.read_manifest(folder).items() if k not in ("files", "manifest_sha256")}
generator = np.random.default_rng(seed)
queries = np.random.default_rng(0).normal(size=(25, 8)).astype(np.float32)
ended = {"loaded": 0, "refused": 0, "crashed": 0}
for number in range(count):
    data = bytearray(whole)
    at = int(generator.integers(len(data) if number % 2 else min(200, len(data))))
    if number % 3:
        data[at : at + 8] = generator.bytes(8) if number % 4 else (2**63 - 1).to_bytes(8, "little")
    else:
        data[at] ^= 1 << int(generator.integers(8))
    with open(path, "wb") as file:
        file.write(data)
    index_files.write_manifest(folder, about)
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(30)
            index = Index.load(folder)
            index.search(queries, 5), index.search(queries[:1], 5, allowed=index.ids[:90])
            index.range_search(queries, 0.5), index.vectors(index.ids[:3])
            os._exit(0)
        except DataError:
            os._exit(1)
        except BaseException as error:
            os.write(1, f"{type(error).__name__}: {error}\\n".encode())
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ended["loaded" if status == 0 else "refused" if status == 1 else "crashed"] += 1
print(ended["crashed"], ended["refused"], ended["loaded"])
"""


@pytest.mark.security
@pytest.mark.slow
def test_a_forged_file_with_a_forged_manifest_ends_no_process(folder: Path) -> None:
    """No hash helps against one who writes it too: FAISS and the checks after it must stand."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FORGED, str(folder), "0", "100"], capture_output=True, text=True, env=environment
    )
    crashed, refused, loaded = map(int, done.stdout.split()[-3:])
    assert crashed == 0 and refused + loaded == 100 and refused > 5, done.stdout + done.stderr[-2000:]
