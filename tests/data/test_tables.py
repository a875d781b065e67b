"""Columns keep one type, widen only where nothing is lost, and spill to disk without a change."""

import os

import pyarrow as pa
import pytest
from datasets import Value

from mmembed.data.tables import ColumnFault, TableBuilder, infer_type, merge_types, typed_column


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([None, None], pa.null()),
        ([True, None], pa.bool_()),
        ([1, 2**62], pa.int64()),
        ([1, 2.5], pa.float64()),
        (["a"], pa.string()),
        ([[1], [], None, [2.5]], pa.list_(pa.float64())),
        ([{"a": 1}, {"b": ["x"]}, {}], pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))])),
    ],
)
def test_inferred_types(values, kind):
    assert infer_type(values) == kind


@pytest.mark.parametrize(
    "values", [[1, True], [1, "a"], [[1], "a"], [[1, "a"]], [{"a": 1}, {"a": "x"}], [2**63], [b"a", "a"]]
)
def test_mixed_types_are_refused(values):
    with pytest.raises(ColumnFault):
        infer_type(values)


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        (pa.null(), pa.string(), pa.string()),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
        (
            pa.struct([("a", pa.int64())]),
            pa.struct([("b", pa.string())]),
            pa.struct([("a", pa.int64()), ("b", pa.string())]),
        ),
    ],
)
def test_merged_types(first, second, merged):
    assert merge_types(first, second) == merged


@pytest.mark.parametrize(
    "pair",
    [
        (pa.int64(), pa.string()),
        (pa.bool_(), pa.int64()),
        (pa.list_(pa.string()), pa.string()),
        (pa.date32(), pa.int32()),
    ],
)
def test_a_number_never_becomes_a_text(pair):
    for first, second in (pair, pair[::-1]):
        with pytest.raises(ColumnFault):
            merge_types(first, second)


@pytest.mark.parametrize(
    ("values", "so_far", "index"),
    [
        ([1, 2, "x", 3], pa.null(), 2),
        (["a", "b"], pa.int64(), 0),
        (["a", "\ud800"], pa.null(), 1),
        ([1, 2**70], pa.null(), 1),
        ([{"a": 1}, {"a": 2}, {"a": []}], pa.null(), 2),
    ],
)
def test_the_first_value_that_does_not_fit_is_named(values, so_far, index):
    with pytest.raises(ColumnFault) as caught:
        typed_column(values, so_far)
    assert caught.value.index == index


def test_too_deep_and_too_wide():
    deep = 1
    for _ in range(40):
        deep = [deep]
    with pytest.raises(ColumnFault, match="nested"):
        typed_column([deep], pa.null())
    with pytest.raises(ColumnFault, match="different keys"):
        typed_column([{str(i): 1} for i in range(1001)], pa.null())


def _chunks():
    yield {"id": pa.array(["a", "b"]), "n": pa.array([1, None]), "s": pa.array([{"x": 1}, None])}
    yield {"id": pa.array(["c"]), "new": pa.array(["y"]), "n": pa.array([0.5]), "s": pa.array([{"y": ["z"]}])}
    yield {"id": pa.array(["d"])}


@pytest.mark.parametrize("limit", [1, 20, 1 << 30])
def test_the_same_rows_in_memory_and_on_disk(limit, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    builder = TableBuilder(in_memory_bytes=limit)
    for chunk in _chunks():
        builder.add(chunk)
    table = builder.finish({"n": Value("float64")})
    assert table.column_names == ["n", "id", "s", "new"]
    assert table["id"][:] == ["a", "b", "c", "d"]
    assert table["n"][:] == [1.0, None, 0.5, None]
    assert table["s"][:] == [{"x": 1, "y": None}, None, {"x": None, "y": ["z"]}, None]
    assert table["new"][:] == [None, None, "y", None]
    assert bool(table.cache_files) == bool(os.listdir(tmp_path)) == (limit < 1 << 30)


def test_the_fingerprint_is_of_the_contents():
    def fingerprint(values):
        builder = TableBuilder()
        builder.add({"id": pa.array(values)})
        return builder.finish({})._fingerprint

    assert fingerprint(["a", "b"]) == fingerprint(["a", "b"]) != fingerprint(["a", "c"])
