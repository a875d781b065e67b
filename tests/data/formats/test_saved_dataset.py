"""A folder of save_to_disk: read without decoding, confined to itself, and what we write is read by datasets."""

import json
import os

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Image, Value, load_from_disk

from mmembed.data.formats import saved_dataset
from mmembed.data.schema import DataError


@pytest.fixture
def saved(tmp_path):
    Dataset.from_dict({"id": [str(i) for i in range(2500)]}).save_to_disk(tmp_path / "saved", num_shards=2)
    return tmp_path / "saved"


def test_read_in_pieces_over_shards(saved):
    pieces = list(saved_dataset.read(saved))
    assert pieces[0][0] == 0 and [row for row, _ in pieces] == sorted(row for row, _ in pieces)
    ids = [one for _, piece in pieces for one in piece["id"].to_pylist()]
    assert ids == [str(i) for i in range(2500)]
    assert all(row == int(piece["id"][0].as_py()) for row, piece in pieces)


@pytest.mark.security
def test_state_does_not_lead_out_of_the_folder(saved):
    state = json.loads((saved / "state.json").read_text())
    os.rename(saved / state["_data_files"][0]["filename"], saved.parent / "outside.arrow")
    for name in ("../outside.arrow", str(saved.parent / "outside.arrow"), "..", "", 5):
        (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(DataError, match="not in the folder"):
            list(saved_dataset.read(saved))


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"_data_files": 1}', '{"_data_files": ["a"]}', "[" * 100_000])
def test_a_damaged_state(saved, state):
    (saved / "state.json").write_text(state)
    with pytest.raises(DataError, match="state.json cannot be read"):
        list(saved_dataset.read(saved))


def test_damaged_shards(saved):
    shard = saved / json.loads((saved / "state.json").read_text())["_data_files"][1]["filename"]
    whole = shard.read_bytes()
    for data in (b"", whole[:100], b"\0" * 1000):
        shard.write_bytes(data)
        with pytest.raises(DataError, match="cannot be read"):
            list(saved_dataset.read(saved))
    shard.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        list(saved_dataset.read(saved))


def test_datasets_reads_what_is_written(tmp_path):
    features = Features({"id": Value("string"), "image": Image(decode=False)})
    table = pa.table({"id": ["a"], "image": [{"bytes": b"x", "path": None}]}, schema=features.arrow_schema)
    saved_dataset.write(tmp_path / "out", [table], features.arrow_schema)
    loaded = load_from_disk(str(tmp_path / "out"))
    assert loaded.features == features and loaded[0] == {"id": "a", "image": {"bytes": b"x", "path": None}}
    assert saved_dataset.is_saved_dataset(tmp_path / "out") and not saved_dataset.is_saved_dataset(tmp_path)
