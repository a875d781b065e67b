"""Equal contents share a key, whatever holds them; picks depend on their arguments alone."""

import os
import time

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from datasets import Dataset

from mmembed.data.keys import bytes_key, group_key, items_keys, permutation, pick, text_key, uniform
from mmembed.data.schema import DataError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _items(images, texts=None, groups=None):
    n = len(images)
    table = {"id": [str(i) for i in range(n)], "text": pa.array(texts or [None] * n, pa.string())}
    table["image"] = pa.array(images, IMAGE)
    table["group"] = pa.array(groups or [None] * n, pa.string())
    return Dataset(pa.table(table))


def test_keys_are_63_bits_and_never_the_reserved_0():
    assert bytes_key(b"abc") == xxhash.xxh3_64_intdigest(b"abc") >> 1
    assert all(0 < bytes_key(bytes([i])) < 2**63 for i in range(256))


def test_text_key_folds_what_a_reader_does_not_see():
    same = ["Straße  RED", "strasse red", " ＳＴＲＡＳＳＥ\u00a0red\n"]
    assert len({text_key(text) for text in same}) == 1
    assert group_key("A") != group_key("a")


def test_rows_of_the_same_content_share_keys_whatever_holds_it(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"picture")
    (tmp_path / "b.jpg").write_bytes(b"picture")
    images = [
        {"bytes": b"picture", "path": None},
        {"bytes": None, "path": str(tmp_path / "a.jpg")},
        {"bytes": None, "path": str(tmp_path / "b.jpg")},
        {"bytes": b"another", "path": "picture.jpg"},
        None,
    ]
    items = _items(images, ["Red", "red ", None, "x", "y"], ["1", None, "1", "2", None])
    keys = items_keys(items)
    assert keys.dtype == np.int64 and keys.shape == (5, 3)
    expected_image = [bytes_key(b"picture")] * 3 + [bytes_key(b"another"), 0]
    assert keys[:, 2].tolist() == expected_image
    assert keys[:, 1].tolist() == [text_key("red"), text_key("red"), 0, text_key("x"), text_key("y")]
    assert keys[:, 0].tolist() == [group_key("1"), 0, group_key("1"), group_key("2"), 0]
    order = [3, 0, 4]
    assert items_keys(items.select(order)).tolist() == keys[order].tolist()


def test_keys_across_pieces_and_slices():
    n = 10_000
    blobs = [b"%d" % (i % 777) for i in range(n)]
    items = _items([{"bytes": blob, "path": None} if i % 5 else None for i, blob in enumerate(blobs)])
    keys = items_keys(items.select(range(3, n)))[:, 2]
    expected = [bytes_key(blobs[i]) if i % 5 else 0 for i in range(3, n)]
    assert keys.tolist() == expected


def test_bytes_are_hashed_at_more_than_100k_rows_a_second():
    blob = os.urandom(2000)
    items = _items([{"bytes": blob, "path": None}] * 50_000)
    best = min(_seconds(lambda: items_keys(items)) for _ in range(3))
    assert best < 0.5


def _seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_a_missing_file_names_its_row(tmp_path):
    items = _items([None, {"bytes": None, "path": str(tmp_path / "gone.jpg")}])
    with pytest.raises(DataError, match="row 1: field 'image': cannot read"):
        items_keys(items)


def test_picks_are_uniform_independent_and_fixed_for_ever():
    draws = [pick(10, seed=0, epoch=0, id=str(i)) for i in range(20_000)]
    counts = np.bincount(draws, minlength=10)
    assert ((counts - 2000) ** 2 / 2000).sum() < 30  # chi-square, 9 degrees: p < 0.0005
    others = [pick(10, seed=0, epoch=1, id=str(i)) for i in range(20_000)]
    assert abs(np.corrcoef(draws, others)[0, 1]) < 0.03
    assert pick(1000, seed=0, epoch=0, id="a", salt="b") != pick(1000, seed=0, epoch=0, id="b", salt="a")
    # A change of these numbers would change every resumed run.
    assert [pick(1000, seed=1, epoch=2, id="x"), round(uniform(1, 2, "x"), 6)] == [924, 0.214015]
    assert permutation(8, seed=1, epoch=2).tolist() == [6, 0, 5, 1, 7, 2, 3, 4]
    with pytest.raises(ValueError, match="at least one choice"):
        pick(0, seed=0, epoch=0, id="a")


def test_uniform_and_permutation():
    values = np.array([uniform(3, 0, str(i)) for i in range(5000)])
    assert 0 <= values.min() and values.max() < 1 and abs(values.mean() - 0.5) < 0.02
    order = permutation(1000, 0, 0)
    assert sorted(order.tolist()) == list(range(1000))
    assert not np.array_equal(order, permutation(1000, 0, 1))
    assert len(permutation(0, 0, 0)) == 0


def test_picks_leave_the_global_generator_alone():
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    pick(5, seed=0, epoch=0, id="a"), uniform(0, 0, "a"), permutation(5, 0, 0)
    assert np.random.rand() == expected
