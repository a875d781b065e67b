"""The file formats: one file a format, its `read` and `write` side by side.

A row format reads as `read(path) -> Iterator[(line, dict)]`, a columnar one as `read(path) -> Iterator[(row, table)]`
with the row (from 0) at which each piece begins. Neither knows ITEMS: `mmembed.data.reading` maps and checks.
"""
