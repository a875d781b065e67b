"""A path names files of one format, or says what is there instead."""

import pyarrow as pa
import pytest

from mmembed.data.schema import DataError
from mmembed.data.sources import Columns, Rows, find_files, row_pieces


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "notes.md", ".hidden.csv"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_what_a_path_names(folder):
    both = [str(folder / "a.jsonl"), str(folder / "b.jsonl")]
    assert find_files(folder) == both
    assert find_files(str(folder / "*.jsonl")) == both
    assert find_files([folder / "b.jsonl", folder / "a.jsonl"]) == both[::-1]
    (folder / "odd[1].jsonl").write_text("{}")
    assert find_files(folder / "odd[1].jsonl") == [str(folder / "odd[1].jsonl")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.json", r"no such file; did you mean 'a\.jsonl'"),
        ("none/a.jsonl", "none is not a folder"),
        ("*.csv", "no file matches"),
        ("notes.md", r"the extension '\.md' is not read.*parquet"),
        ("a\0", "no such file"),
    ],
)
def test_what_is_not_there(folder, name, message):
    with pytest.raises(DataError, match=message):
        find_files(str(folder / name))


def test_several_formats_are_not_guessed_at(folder):
    (folder / "c.csv").write_text("id\n")
    for path in (folder, [folder / "a.jsonl", folder / "c.csv"], str(folder / "[ac].*")):
        with pytest.raises(DataError, match="several formats"):
            find_files(path)
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="no file in the folder can be read"):
        find_files(folder / "empty")
    with pytest.raises(DataError, match="empty list"):
        find_files([])


def test_pieces_are_bounded_and_keep_their_lines(monkeypatch):
    monkeypatch.setattr("mmembed.data.sources.PIECE_ROWS", 3)
    monkeypatch.setattr("mmembed.data.sources.PIECE_CHARACTERS", 10)
    rows = [(10 + i, {"a": "x" * (11 if i == 4 else 1)}) for i in range(7)]
    pieces = list(row_pieces("f", rows))
    assert [piece.lines for piece in pieces] == [[10, 11, 12], [13, 14], [15, 16]]
    assert pieces[1].where(1) == {"file": "f", "line": 14}


@pytest.mark.security
@pytest.mark.parametrize("names", [[b"id", b"id"], [b"id", b"\xff"], [b"id", b"a\0"]])
def test_column_names_are_text_and_distinct(names):
    table = pa.table([pa.array(["a"])] * 2, names=names)
    with pytest.raises(DataError, match="column"):
        Columns("f.parquet", 0, table)


def test_an_empty_cell_is_null_and_an_empty_string_is_not():
    rows = [(2, {"a": ""}), (3, {"a": "0"})]
    assert Rows("f", rows, cells=True).values("a") == [None, "0"]
    assert Rows("f", rows).values("a") == ["", "0"]
