"""Parquet: the same rows in pieces, and nothing but DataError for a damaged file."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmembed.data.formats import parquet
from mmembed.data.schema import DataError


def test_round_trip_in_pieces(tmp_path):
    table = pa.table({"id": [str(i) for i in range(3000)], "n": pa.array(range(3000), pa.int16())})
    parquet.write(tmp_path / "a.parquet", (table.slice(i, 700) for i in range(0, 3000, 700)), table.schema)
    pieces = list(parquet.read(tmp_path / "a.parquet"))
    assert [row for row, _ in pieces] == [0, 1024, 2048]
    assert pa.concat_tables(piece for _, piece in pieces).equals(table)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"not parquet at all"])
def test_what_is_not_parquet(tmp_path, data):
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(DataError, match="not a parquet file"):
        list(parquet.read(tmp_path / "a.parquet"))


@pytest.mark.security
def test_text_that_is_not_utf8_is_found(tmp_path):
    broken = pa.array([b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="(?i)utf-?8"):
        list(parquet.read(tmp_path / "a.parquet"))


@pytest.mark.security
def test_damaged_files_raise_data_errors_only(tmp_path):
    generator = random.Random(0)
    table = pa.table({"id": [str(i) for i in range(50)], "image": [b"x" * i for i in range(50)]})
    pq.write_table(table, tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for _ in range(300):
        data = bytearray(whole[: generator.choice([len(whole), generator.randrange(len(whole))])])
        for _ in range(generator.randrange(1, 5)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        (tmp_path / "a.parquet").write_bytes(data)
        try:
            list(parquet.read(tmp_path / "a.parquet"))
        except DataError:
            pass
