"""Vectors of other programs ↔ `Embeddings`: ids, lengths, zeros, types, and every form there and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from safetensors.numpy import load_file

from mmembed.data.schema import DataError
from mmembed.embedding_formats import read_embeddings, write_embeddings
from mmembed.embeddings import Embeddings


def unit(rows: int, dim: int, dtype=np.float32) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("name", ["v.npz", "v.safetensors", "v.jsonl", "v.parquet"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_each_form_there_and_back(tmp_path: Path, name: str, dtype) -> None:
    whole = Embeddings(["ц\n1", "b", "007"], unit(3, 5, dtype), {"model": "mine"})
    write_embeddings(whole, tmp_path / name)
    found = read_embeddings(tmp_path / name)
    assert found.ids == whole.ids and np.array_equal(np.asarray(found.vectors), np.asarray(whole.vectors))
    assert found.vectors.dtype == (np.float32 if name == "v.jsonl" else dtype)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_others_read_what_is_written(tmp_path: Path) -> None:
    whole = Embeddings(["7", "12"], unit(2, 3), {"use": "text"})
    for name in ("v.npz", "v.safetensors", "v.jsonl", "v.parquet"):
        write_embeddings(whole, tmp_path / name)
    with np.load(tmp_path / "v.npz", allow_pickle=False) as file:
        assert file["ids"].tolist() == ["7", "12"] and np.array_equal(file["vectors"], whole.vectors)
    assert np.array_equal(load_file(tmp_path / "v.safetensors")["vectors"], whole.vectors)
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [row["text_id"] for row in rows] == [7, 12]  # as Chinese-CLIP's evaluation looks them up
    assert np.array_equal(np.array([row["feature"] for row in rows], np.float32), whole.vectors)
    table = load_dataset("parquet", data_files=str(tmp_path / "v.parquet"), cache_dir=str(tmp_path / "c"))["train"]
    assert table["id"][:] == ["7", "12"] and np.array_equal(np.array(table["vector"][:], np.float32), whole.vectors)
    mixed = Embeddings(["7", "007"], unit(2, 3), {"use": "image"})
    write_embeddings(mixed, tmp_path / "m.jsonl", vector_field="v")
    assert [json.loads(line)["image_id"] for line in open(tmp_path / "m.jsonl")] == ["7", "007"]
    with pytest.raises(
        DataError, match="the extension '.txt' is not written; write .npz, .safetensors, .jsonl, .parquet"
    ):
        write_embeddings(whole, tmp_path / "v.txt")


def test_many_rows_in_blocks(tmp_path: Path) -> None:
    whole = Embeddings([str(row) for row in range(10_000)], unit(10_000, 2))
    whole.save(tmp_path / "folder", shard_rows=3_000)
    loaded = Embeddings.load(tmp_path / "folder")
    for name in ("v.parquet", "v.jsonl"):
        write_embeddings(loaded, tmp_path / name)
        assert np.array_equal(np.asarray(read_embeddings(tmp_path / name).vectors), np.asarray(whole.vectors))
    assert np.array_equal(np.asarray(read_embeddings(tmp_path / "folder").vectors), np.asarray(whole.vectors))


def test_lengths_are_made_one_where_that_is_asked_for(tmp_path: Path) -> None:
    raw = np.array([[3, 4], [0, 0], [1e-30, 0], [1e30, 1e30]], dtype=np.float32)
    np.savez(tmp_path / "v.npz", v=raw, ids=np.array(list("abcd")))
    with pytest.raises(
        DataError, match="v.npz: row 0: the vector of 'a' has the length 5, expected 1; pass normalise=True"
    ):
        read_embeddings(tmp_path / "v.npz")
    found = read_embeddings(tmp_path / "v.npz", normalise=True)
    np.testing.assert_allclose(found.vectors, [[0.6, 0.8], [0, 0], [1, 0], [0.5**0.5, 0.5**0.5]], rtol=1e-6)
    dropped = read_embeddings(tmp_path / "v.npz", normalise=True, zeros="drop")
    assert dropped.ids == ["a", "c", "d"] and np.array_equal(dropped.vectors, found.vectors[[0, 2, 3]])
    with pytest.raises(DataError, match="row 1: the vector of 'b' is all zeros"):
        read_embeddings(tmp_path / "v.npz", normalise=True, zeros="error")
    with pytest.raises(ValueError, match="zeros='skip'; choose keep, drop or error"):
        read_embeddings(tmp_path / "v.npz", zeros="skip")
    half = np.array([[300, 400]], dtype=np.float16)  # whose squares do not fit into 16 bits
    np.savez(tmp_path / "h.npz", v=half, ids=np.array(["a"]))
    found = read_embeddings(tmp_path / "h.npz", normalise=True)
    assert found.vectors.dtype == np.float16
    np.testing.assert_allclose(found.vectors.astype(np.float32), [[0.6, 0.8]], atol=1e-3)


def test_nan_is_an_error_with_its_id(tmp_path: Path) -> None:
    for bad in (np.nan, np.inf):
        np.savez(tmp_path / "v.npz", v=np.array([[1, 0], [bad, 0]], np.float32), ids=np.array(["a", "b"]))
        for normalise in (True, False):
            with pytest.raises(DataError, match="v.npz: row 1: the vector of 'b' holds NaN or infinity"):
                read_embeddings(tmp_path / "v.npz", normalise=normalise)


def test_ids_come_from_a_list_a_file_or_beside(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", unit(2, 3))
    with pytest.raises(DataError, match="v.npy: vectors without ids; pass ids, or put one a line into v.ids.txt"):
        read_embeddings(tmp_path / "v.npy")
    assert read_embeddings(tmp_path / "v.npy", ids=["a", "b"]).ids == ["a", "b"]
    (tmp_path / "items.jsonl").write_text('{"id": "x", "text": "hat"}\n"y"\n\n')
    assert read_embeddings(tmp_path / "v.npy", ids=tmp_path / "items.jsonl").ids == ["x", "y"]
    (tmp_path / "v.ids.txt").write_text("10000\nцвет мой\n", encoding="utf-8")
    assert read_embeddings(tmp_path / "v.npy").ids == ["10000", "цвет мой"]
    for given, message in [
        (["a"], "1 ids for 2 vectors"),
        (["a", "a"], "row 1: field 'id': id 'a' is also the id of row 0"),
        (["a", None], "ids: row 1: no id"),
    ]:
        with pytest.raises(DataError, match=message):
            read_embeddings(tmp_path / "v.npy", ids=given)
    (tmp_path / "bad.jsonl").write_text('"a"\n{"name": "b"}\n')
    with pytest.raises(DataError, match=r"bad.jsonl:2: field 'id': found the fields \['name'\]"):
        read_embeddings(tmp_path / "v.npy", ids=tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="bad.jsonl: not UTF-8"):
        read_embeddings(tmp_path / "v.npy", ids=tmp_path / "bad.jsonl")
    with pytest.raises(ValueError, match="array='text' is of .npz"):
        read_embeddings(tmp_path / "items.jsonl", array="text")


def test_a_folder_of_embeddings_is_read_too(tmp_path: Path) -> None:
    whole = Embeddings(["a", "b"], unit(2, 3), {"use": "image"})
    whole.save(tmp_path / "e")
    found = read_embeddings(tmp_path / "e", manifest={"model": "mine"})
    assert found.ids == whole.ids and found.manifest["use"] == "image" and found.manifest["model"] == "mine"
    found.save(tmp_path / "f")
    assert Embeddings.load(tmp_path / "f").manifest["model"] == "mine"
