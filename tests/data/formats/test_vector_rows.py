"""Rows with an id and a vector: what is read as what, and what is said of a row that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from mmembed.data.formats.vector_rows import read
from mmembed.data.schema import DataError


def written(folder: Path, *rows: dict, name: str = "valid_imgs.img_feat.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_chinese_clips_features(tmp_path: Path) -> None:
    file = written(tmp_path, {"image_id": 1007, "feature": [0.25, -1.5]}, {"image_id": 3, "feature": [1, 0]})
    ids, vectors = read(file)
    assert ids == ["1007", "3"] and vectors.dtype == np.float32 and vectors.tolist() == [[0.25, -1.5], [1, 0]]
    file = written(tmp_path, {"text_id": 5, "feature": [0.5]}, name="t.jsonl")
    assert read(file)[0] == ["5"]
    both = written(tmp_path, {"text_id": 5, "image_id": 7, "feature": [0.5], "other": [0.5]}, name="b.jsonl")
    with pytest.raises(DataError, match=r"b.jsonl:1: several fields that may be the id, \['image_id', 'text_id'\]"):
        read(both)
    ids, vectors = read(both, id_column="image_id", vector_column="other")
    assert ids == ["7"]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("width", [-1, 2])
def test_columns_of_vectors(tmp_path: Path, kind: pa.DataType, width: int) -> None:
    rows = [[0.5, -1.5], [2.0, 0.25], [0.0, 1.0]]
    vectors = pa.array([np.array(row, kind.to_pandas_dtype()) for row in rows], type=pa.list_(kind, width))
    table = pa.table({"id": pa.array(["a", "b", "c"]), "text": pa.array(["x"] * 3), "embedding": vectors})
    pq.write_table(table.slice(0, 2), tmp_path / "a.parquet")
    pq.write_table(table.slice(2), tmp_path / "b.parquet")
    ids, found = read(tmp_path)
    assert ids == ["a", "b", "c"] and found.tolist() == rows
    assert found.dtype == (np.float16 if kind == pa.float16() else np.float32)


def test_a_saved_dataset(tmp_path: Path) -> None:
    Dataset.from_dict({"nm": [4, 5], "vector": [[0.5, 1.0], [2.0, 3.0]]}).save_to_disk(str(tmp_path / "d"))
    ids, vectors = read(tmp_path / "d")
    assert ids == ["4", "5"] and vectors.tolist() == [[0.5, 1.0], [2.0, 3.0]]


def test_a_wrong_row_is_named_by_file_line_and_field(tmp_path: Path) -> None:
    good = {"id": "a", "vector": [1.0, 2.0]}
    for row, message in [
        ({"id": "b", "vector": [1.0]}, "v.jsonl:2: field 'vector': 1 numbers, the rows before have 2"),
        ({"id": "b", "vector": []}, "v.jsonl:2: field 'vector': found list .*, expected a list of numbers"),
        ({"id": "b"}, "v.jsonl:2: field 'vector': found null"),
        ({"id": "b", "vector": "1 2"}, "v.jsonl:2: field 'vector': found string '1 2'"),
        ({"id": "b", "vector": [1.0, True]}, "v.jsonl:2: field 'vector': element 1: found boolean True"),
        ({"id": "b", "vector": [1.0, None]}, "v.jsonl:2: field 'vector': element 1: found null"),
        ({"id": "b", "vector": [[1.0, 2.0]]}, "v.jsonl:2: field 'vector': element 0: found list"),
        ({"id": "b", "vector": [1.0, 1e300]}, "element 1: 1e[+]300 is no number that fits into 32 bits"),
        ({"id": "a", "vector": [1.0, 2.0]}, "v.jsonl:2: field 'id': id 'a' already stands in line 1"),
        ({"id": 1.5, "vector": [1.0, 2.0]}, "v.jsonl:2: field 'id': found float 1.5"),
        ({"vector": [1.0, 2.0]}, "v.jsonl:2: field 'id': no id"),
    ]:
        with pytest.raises(DataError, match=message):
            read(written(tmp_path, good, row, name="v.jsonl"))
    (tmp_path / "n.jsonl").write_text('{"id": "a", "vector": [NaN]}\n')
    with pytest.raises(DataError, match="n.jsonl:1: NaN is not JSON"):
        read(tmp_path / "n.jsonl")
    (tmp_path / "e.jsonl").write_text("")
    with pytest.raises(DataError, match="e.jsonl: no rows"):
        read(tmp_path / "e.jsonl")
    with pytest.raises(DataError, match="field 'vectr': no such field; .*did you mean 'vector'"):
        read(written(tmp_path, good, name="v.jsonl"), vector_column="vectr")
    with pytest.raises(DataError, match=r"no field that is the vector; of \['id', 'numbers'\] pass the one"):
        read(written(tmp_path, {"id": "a", "numbers": [1.0]}, name="v.jsonl"))
    (tmp_path / "v.csv").write_text("id,vector\na,1\n")
    with pytest.raises(DataError, match="cells of text hold no vectors"):
        read(tmp_path / "v.csv")


def test_wrong_columns_are_named_by_row(tmp_path: Path) -> None:
    for rows, message in [
        ([[1.0, 2.0], None], "row 1: field 'vector': found null"),
        ([[1.0, 2.0], [1.0]], "row 1: field 'vector': 1 numbers"),
        ([[1.0, 2.0], [1.0, None]], "row 1: field 'vector': element 1: found null"),
        ([[1.0, 2.0], [1.0, float("nan")]], "row 1: field 'vector': element 1: nan"),
        ([[1.0, 2.0], [1.0, 1e300]], "row 1: field 'vector': element 1: 1e[+]300"),
    ]:
        pq.write_table(
            pa.table({"id": ["a", "b"], "vector": pa.array(rows, pa.list_(pa.float64()))}), tmp_path / "v.parquet"
        )
        with pytest.raises(DataError, match=f"v.parquet: {message}"):
            read(tmp_path / "v.parquet")
    pq.write_table(pa.table({"id": ["a"], "vector": pa.array(["x"])}), tmp_path / "v.parquet")
    with pytest.raises(DataError, match="row 0: field 'vector': found string 'x'"):
        read(tmp_path / "v.parquet")
