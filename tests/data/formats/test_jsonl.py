"""JSON lines: every line is one object, or the file and line that is not are named."""

import time

import pytest

from mmembed.data.formats import jsonl
from mmembed.data.schema import DataError


def _read(tmp_path, data):
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    return list(jsonl.read(path))


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b'{"a": 1}\n{"a": 2}\n', [(1, 1), (2, 2)]),
        (b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}', [(1, 1), (4, 2)]),
        ('{"a": "é\u2028ё\\u0000"}\n'.encode(), [(1, "é\u2028ё\0")]),
        (b"", []),
        (b"\n\n", []),
    ],
)
def test_lines_and_numbers(tmp_path, data, rows):
    assert [(line, row["a"]) for line, row in _read(tmp_path, data)] == rows


GOOD = b'{"a": 1}\n'


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        ('{"a": "привет"}'.encode("cp1251"), 1, "not UTF-8"),
        (GOOD + '{"a": "é"}'.encode("latin-1"), 2, "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), 1, "UTF-16"),
        ('{"a": 1}'.encode("utf-16-le"), 1, "UTF-16"),
        ('{"a": 1}'.encode("utf-32-le"), 1, "UTF-16 or UTF-32"),
        (GOOD + b'{"a": 1, "b', 2, "the last line is cut off after 11 characters"),
        (GOOD + b'{"a": 1, "b": [1, 2', 2, "cut off"),
        (GOOD + b'{"a": 1, "b": ', 2, "cut off"),
        (GOOD + b'{"a" 1}\n', 2, "not JSON at character 5"),
        (GOOD + b'{"a": 1} {"a": 2}\n', 2, "more text after the object"),
        (GOOD + b'{"a": 1, "a": 2}\n', 2, "the key 'a' stands twice"),
        (GOOD + b'{"a": {"b": 1, "b": 2}}\n', 2, "the key 'b' stands twice"),
        (b'{"a": NaN}', 1, "NaN is not JSON"),
        (b'{"a": -Infinity}', 1, "-Infinity is not JSON"),
        (b'{"a": 1e999}', 1, "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", 1, "digits"),
        (GOOD + b"[1]\n", 2, "found list"),
        (b'[{"a": 1}]\n', 1, "an object|array"),
        (b'[\n{"a": 1},\n', 1, "JSON array begins here"),
        (GOOD + b"null\n", 2, "found null"),
        (b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", 1, "nested too deep"),
        (b'{"a":' * 10_000, 1, "nested too deep"),
        (b"\x00\x01\x02\x03", 1, "UTF|JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, data, line, message):
    with pytest.raises(DataError, match=message) as caught:
        _read(tmp_path, data)
    assert caught.value.line == line and caught.value.file.endswith("a.jsonl")


def test_a_line_of_60_megabytes(tmp_path):
    start = time.perf_counter()
    [(line, row)] = _read(tmp_path, b'{"a": "' + b"x" * 60_000_000 + b'"}')
    assert (line, len(row["a"])) == (1, 60_000_000)
    assert time.perf_counter() - start < 5


def test_a_file_without_line_ends_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1 << 20)
    with pytest.raises(DataError, match="more than 1 MiB"):
        _read(tmp_path, b" " * (1 << 21))


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list(jsonl.read(tmp_path / "none.jsonl"))


def test_round_trip(tmp_path):
    rows = [{"a": "é\n\u2028", "b": [1, {"c": None}], "d": 1.5, "e": True}, {"a": ""}]
    jsonl.write(tmp_path / "a.jsonl", rows)
    assert [row for _, row in jsonl.read(tmp_path / "a.jsonl")] == rows


@pytest.mark.parametrize("value", [b"x", float("nan"), {1, 2}])
def test_what_json_cannot_hold(tmp_path, value):
    with pytest.raises(DataError, match="JSON cannot hold") as caught:
        jsonl.write(tmp_path / "a.jsonl", [{"a": 1}, {"a": 1, "b": value}])
    assert (caught.value.row, caught.value.field) == (1, "b")
