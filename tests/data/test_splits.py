"""A split goes by group, by a hash that anyone can compute."""

import hashlib

import pytest
from datasets import Dataset

from mmembed.data.reading import read_items
from mmembed.data.splits import SplitLeak, split_by_group, split_leaks


def _bucket(value, salt="split"):
    return int.from_bytes(hashlib.sha256(f"{salt}-{value}".encode()).digest(), "big") % 100


def _items(n=600):
    ids = [str(i) for i in range(n)]
    return Dataset.from_dict({"id": ids, "text": ids, "group": [str(i // 3) if i % 4 else None for i in range(n)]})


def test_each_row_goes_where_the_hash_of_its_group_says():
    items = _items()
    splits = split_by_group(items, test_percent=20, validation_percent=15, salt="s")
    assert list(splits) == ["train", "validation", "test"]
    for name, low, high in (("test", 0, 20), ("validation", 20, 35), ("train", 35, 100)):
        expected = [row["id"] for row in items if low <= _bucket(row["group"] or row["id"], "s") < high]
        assert splits[name]["id"][:] == expected and expected


def test_a_group_stays_put_when_the_table_grows_or_is_shuffled():
    small, large = split_by_group(_items(300)), split_by_group(_items(600).shuffle(seed=0))
    assert set(small["test"]["id"]) <= set(large["test"]["id"])
    assert list(small) == ["train", "test"]


def test_by_another_column():
    items = Dataset.from_dict({"id": ["a", "b", "c"], "text": ["x"] * 3, "brand": [5, 5, None]})
    splits = split_by_group(items, by="brand", test_percent=50)
    names = {identifier: name for name, split in splits.items() for identifier in split["id"]}
    expected = {"a": _bucket(5), "b": _bucket(5), "c": _bucket("c")}
    assert names == {key: "test" if bucket < 50 else "train" for key, bucket in expected.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "grop"}, "did you mean 'group'"),
        ({"test_percent": 100}, "stay below 100"),
        ({"test_percent": -1}, "below 0"),
        ({"test_percent": 0.2}, "whole"),
        ({"by": "price"}, "strings or integers"),
    ],
)
def test_what_cannot_be_split_is_refused(options, message):
    items = _items(5).add_column("price", [1.5] * 5)
    with pytest.raises(ValueError, match=message):
        split_by_group(items, **options)


def test_no_rows():
    assert {name: len(split) for name, split in split_by_group(_items(0)).items()} == {"train": 0, "test": 0}


def test_planted_leaks_are_found_and_nothing_else():
    image = {"bytes": b"same", "path": None}
    train = {"id": ["a", "b", "c"], "text": ["Red  Skirt", None, "hat"], "group": ["1", None, "2"]}
    test = {"id": ["d", "e", "f"], "text": ["red skirt", "x", None], "group": ["3", "2", None]}
    splits = {
        "train": Dataset.from_dict({**train, "image": [None, image, None]}),
        "test": Dataset.from_dict({**test, "image": [None, None, image]}),
    }
    assert set(map(repr, split_leaks(splits))) == {
        repr(SplitLeak("text", ("train", "test"), (["a"], ["d"]))),
        repr(SplitLeak("group", ("train", "test"), (["c"], ["e"]))),
        repr(SplitLeak("image", ("train", "test"), (["b"], ["f"]))),
    }


def test_fashion_products_split_as_published(shared_data):
    items = read_items(
        shared_data / "data/myntra/products.jsonl",
        text_column="productDisplayName",
        group_column="style_group",
        keep_columns=[],
    )
    assert len(items) == 7488
    splits = split_by_group(items, test_percent=20)
    lowest: dict[str, int] = {}
    for identifier, title in zip(splits["test"]["id"], splits["test"]["text"], strict=True):
        lowest[title] = min(int(identifier), lowest.get(title, int(identifier)))
    assert (len(splits["train"]), len(lowest)) == (5956, 1410)
    assert not [leak for leak in split_leaks(splits) if leak.kind == "group"]
