"""CSV and TSV: cells by the name of their column, and no formula for a spreadsheet to run."""

import csv

import pytest

from mmembed.data.formats import delimited
from mmembed.data.schema import DataError


def _read(tmp_path, data, name="a.csv"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(delimited.read(path))


def test_quotes_line_ends_and_line_numbers(tmp_path):
    data = '\ufeffid,text\r\n1,"a ""b"",\r\nc"\r\n\r\n2,\r\n'
    assert _read(tmp_path, data) == [(2, {"id": "1", "text": 'a "b",\r\nc'}), (5, {"id": "2", "text": ""})]
    assert _read(tmp_path, "id\ttext\n1\ta,b\n", "a.tsv") == [(2, {"id": "1", "text": "a,b"})]
    assert _read(tmp_path, "") == []


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        ("id,text\n1,x\n2,a,b\n", 3, "3 cells where the header has 2"),
        ("id,text\n1\n", 2, "1 cells where the header has 2"),
        ('id,text\n1,x\n2,"open\n3,y\n', 3, "unexpected end of data"),
        ('id,text\n1,"a"b\n', 2, "expected after"),
        ("id,id\n1,2\n", 1, "'id' stands twice"),
        ("id,\n1,2\n", 1, "column 2 of the header has no name"),
        ("id,text\n1,привет\n".encode("cp1251"), 2, "not UTF-8"),
        ("id,text\n1,x\n".encode("utf-16"), 1, "UTF-16"),
    ],
)
def test_a_bad_record_is_named(tmp_path, data, line, message):
    with pytest.raises(DataError, match=message) as caught:
        _read(tmp_path, data)
    assert caught.value.line == line


def test_a_large_cell_and_the_limit_of_the_process(tmp_path):
    before = csv.field_size_limit()
    [(_, row)] = _read(tmp_path, "id,text\n1," + "x" * 1_000_000 + "\n")
    assert len(row["text"]) == 1_000_000
    reader = delimited.read(tmp_path / "a.csv")
    next(reader)
    assert csv.field_size_limit() == before  # also while a file is half read


@pytest.mark.security
@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("-inf", "'-inf"),
        ("-1_0", "'-1_0"),
        ("-5", "-5"),
        ("+3.25", "+3.25"),
        ("-1e-3", "-1e-3"),
        ("a=b", "a=b"),
        (-5, "-5"),
        (True, "true"),
        (None, ""),
    ],
)
def test_formulas_are_disarmed_and_numbers_are_not(tmp_path, cell, written):
    delimited.write(tmp_path / "a.csv", [{"id": "1", "=x": cell}], ["id", "=x"])
    [(_, row)] = delimited.read(tmp_path / "a.csv")
    assert row == {"id": "1", "'=x": written}
    delimited.write(tmp_path / "raw.csv", [{"id": "1", "x": cell}], ["id", "x"], raw=True)
    [(_, row)] = delimited.read(tmp_path / "raw.csv")
    assert row["x"] == ({None: "", True: "true"}.get(cell, str(cell)))


@pytest.mark.parametrize("value", [["a"], {"a": 1}, b"x", float("nan")])
def test_what_a_cell_cannot_hold(tmp_path, value):
    with pytest.raises(DataError, match="a cell cannot hold") as caught:
        delimited.write(tmp_path / "a.csv", [{"a": "x"}, {"a": value}], ["a"])
    assert (caught.value.row, caught.value.field) == (1, "a")
    with pytest.raises(DataError, match="did you mean 'price'"):
        delimited.write(tmp_path / "a.csv", [{"prise": 1}], ["id", "price"])
