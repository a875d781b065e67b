"""Arrays of vectors: which one is read, which ids are its own, and what is refused before a byte of it is believed."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from mmembed.data.formats.vector_arrays import array_names, read
from mmembed.data.schema import DataError

TEXT = np.arange(6, dtype=np.float32).reshape(3, 2)
IMG = (TEXT + 10).astype(np.float16)


def test_the_seeds_npz_of_text_and_img(tmp_path: Path) -> None:
    file = tmp_path / "features.npz"
    np.savez(file, text=TEXT, img=IMG, text_ids=np.array(["a", "b", "ц"]), nm=np.array([7, 8, 9]), scale=np.float32(3))
    assert array_names(file) == ["img", "text"]
    ids, vectors = read(file, array="text")
    assert ids == ["a", "b", "ц"] and vectors.dtype == np.float32 and np.array_equal(vectors, TEXT)
    ids, vectors = read(file, array="img")
    assert ids == ["7", "8", "9"] and vectors.dtype == np.float16 and np.array_equal(vectors, IMG)
    with pytest.raises(DataError, match=r"features.npz: several arrays of vectors, \['img', 'text'\]; name the one"):
        read(file)
    with pytest.raises(DataError, match="field 'txt': no such array; .*did you mean 'text'"):
        read(file, array="txt")
    with pytest.raises(DataError, match=r"field 'nm': an array of 1 axes, expected \(rows, dim\)"):
        read(file, array="nm")
    np.savez_compressed(tmp_path / "one.npz", vectors=TEXT.astype(np.float64), ids=np.array([b"x", b"y", b"z"]))
    ids, vectors = read(tmp_path / "one.npz")
    assert ids == ["x", "y", "z"] and vectors.dtype == np.float32 and np.array_equal(vectors, TEXT)
    np.savez(tmp_path / "none.npz", vectors=TEXT, ids=np.array(["a", "b"]))  # not as many: not these vectors' ids
    assert read(tmp_path / "none.npz")[0] is None


def test_npy_is_mapped_and_has_no_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", IMG)
    ids, vectors = read(tmp_path / "v.npy")
    assert ids is None and isinstance(vectors, np.memmap) and np.array_equal(vectors, IMG)
    with pytest.raises(DataError, match="a .npy file has one array"):
        read(tmp_path / "v.npy", array="text")


def test_safetensors_keep_ids_in_the_metadata_or_as_numbers(tmp_path: Path) -> None:
    save_file({"vectors": TEXT}, tmp_path / "a.safetensors", metadata={"ids": json.dumps(["a", 7, "ц"])})
    ids, vectors = read(tmp_path / "a.safetensors")
    assert ids == ["a", "7", "ц"] and np.array_equal(vectors, TEXT)
    save_file({"text": TEXT, "img": IMG, "ids": np.array([5, 6, 7])}, tmp_path / "b.safetensors")
    ids, vectors = read(tmp_path / "b.safetensors", array="img")
    assert (
        ids == ["5", "6", "7"]
        and vectors.dtype == np.float16
        and array_names(tmp_path / "b.safetensors") == ["img", "text"]
    )
    save_tensors({"v": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16)}, tmp_path / "c.safetensors")
    ids, vectors = read(tmp_path / "c.safetensors")
    assert ids is None and vectors.dtype == np.float32 and vectors.tolist() == [[1.5, -2.0]]
    for metadata, message in [
        ('{"a": 1}', "expected a JSON list"),
        ("[1.5, 2, 3]", "expected a string or an integer"),
        ("[", "Expecting value"),
    ]:
        save_file({"vectors": TEXT}, tmp_path / "d.safetensors", metadata={"ids": metadata})
        with pytest.raises(DataError, match=f"d.safetensors: field 'ids': the metadata's ids: .*{message}"):
            read(tmp_path / "d.safetensors")


def test_what_is_no_vectors_is_told(tmp_path: Path) -> None:
    for name, array, message in [
        ("int8", np.zeros((2, 2), np.int8), r"found int8 \(2, 2\), expected .* quantised vectors"),
        ("flat", np.zeros(3, np.float32), r"found float32 \(3,\), expected \(rows, dim\)"),
        ("cube", np.zeros((1, 2, 3), np.float32), r"expected \(rows, dim\)"),
        ("thin", np.zeros((3, 0), np.float32), "vectors of 0 numbers"),
    ]:
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(DataError, match=message):
            read(tmp_path / f"{name}.npy")
    np.savez(tmp_path / "ids.npz", v=TEXT, ids=np.array([1.0, 2.0, 3.0]))
    with pytest.raises(DataError, match="field 'ids': ids of float64, expected strings or whole numbers"):
        read(tmp_path / "ids.npz")
    np.savez(tmp_path / "ids.npz", v=TEXT, ids=np.array(["a", " ", "c"]))
    with pytest.raises(DataError, match="row 1: field 'ids': an empty id"):
        read(tmp_path / "ids.npz")
    np.savez(tmp_path / "nothing.npz", v=np.zeros(2))
    with pytest.raises(DataError, match=r"no array of vectors \(rows, dim\); found \['v'\]"):
        read(tmp_path / "nothing.npz")
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "absent.npz")
    save_file({"v": np.zeros((2, 2), np.int64)}, tmp_path / "i.safetensors")
    with pytest.raises(DataError, match="vectors of I64, expected F16"):
        read(tmp_path / "i.safetensors")


class Marked:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.security
def test_an_array_of_objects_or_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    import pickle

    marker = tmp_path / "run"
    objects = np.array([[Marked(str(marker))]], dtype=object)
    np.savez(tmp_path / "o.npz", text=objects)
    np.savez(tmp_path / "i.npz", text=TEXT, ids=np.array([Marked(str(marker)), "b", "c"], dtype=object))
    np.save(tmp_path / "o.npy", objects)
    (tmp_path / "p.npy").write_bytes(pickle.dumps(Marked(str(marker))))
    (tmp_path / "p.npz").write_bytes(pickle.dumps(Marked(str(marker))))
    with zipfile.ZipFile(tmp_path / "q.npz", "w") as file:
        file.writestr("text.npy", pickle.dumps(Marked(str(marker))))
    for name in ("o.npz", "i.npz", "o.npy", "p.npy", "p.npz", "q.npz"):
        with pytest.raises(DataError):
            read(tmp_path / name)
    assert not marker.exists()


def header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.security
def test_a_claim_of_size_takes_no_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "claim.npz", "w") as file:
        file.writestr("text.npy", header((1 << 40, 1 << 10)) + b"\0" * 16)
    with pytest.raises(DataError, match="field 'text': float32 .* takes .* bytes, and 16 are there"):
        read(tmp_path / "claim.npz")
    (tmp_path / "claim.npy").write_bytes(header((1 << 40, 1 << 10)) + b"\0" * 16)
    with pytest.raises(DataError, match="not a whole .npy file"):
        read(tmp_path / "claim.npy")
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("text.npy", "w") as member,
    ):
        member.write(header((1 << 11, 1 << 13)) + b"\0" * (1 << 26))
    with pytest.raises(DataError, match="unpack to 67,10.,..., as those of no vectors do"):
        read(tmp_path / "bomb.npz")
    np.savez(tmp_path / "large.npz", text=TEXT)
    with pytest.raises(DataError, match="field 'text': 24 bytes; at most 10 are read"):
        read(tmp_path / "large.npz", max_bytes=10)


@pytest.mark.security
@pytest.mark.parametrize("name", ["v.npz", "v.npy", "v.safetensors"])
def test_random_mutations_are_read_or_refused(tmp_path: Path, name: str) -> None:
    whole = tmp_path / name
    if name == "v.npz":
        np.savez(whole, text=TEXT, ids=np.array(["a", "b", "c"]))
    elif name == "v.npy":
        np.save(whole, TEXT)
    else:
        save_file({"text": TEXT}, whole, metadata={"ids": '["a", "b", "c"]'})
    data = whole.read_bytes()
    draw = np.random.default_rng(0)
    refused = 0
    for number in range(300):
        changed = bytearray(data)
        for at in draw.integers(0, len(data), 1 + number % 3):
            changed[at] = draw.integers(256)
        whole.write_bytes(changed[: draw.integers(1, len(data))] if number % 5 == 0 else changed)
        try:
            read(whole)
        except DataError:
            refused += 1
    assert refused > 50
