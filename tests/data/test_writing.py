"""What is written is read back the same, and appears whole or not at all."""

import os

import pytest
from datasets import Dataset, load_from_disk

from mmembed.data.reading import read_items, read_pairs
from mmembed.data.schema import DataError, validate_items
from mmembed.data.writing import write_items, write_pairs


@pytest.fixture
def items(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a b.jpg").write_bytes(b"jpg")
    real = os.path.realpath(tmp_path / "images" / "a b.jpg")
    return validate_items(
        Dataset.from_dict(
            {
                "id": ["1", "=two", 'x,"y"\n'],
                "text": ['Red, "big"\nskirt é', None, "@cmd"],
                "image": [None, {"bytes": None, "path": real}, {"bytes": None, "path": real}],
                "group": ["007", None, "g"],
                "price": [1.5, None, -2.0],
                "brand": ["Palm", "+1 a", None],
            }
        )
    )


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.parquet", "saved"])
def test_items_come_back_the_same(items, tmp_path, name):
    write_items(items, tmp_path / name, raw=True)
    again = read_items(tmp_path / name)
    assert list(again) == list(items)
    assert again.features == items.features
    write_items(items.select([2, 0]), tmp_path / name, raw=True)  # replaces what stands there
    assert list(read_items(tmp_path / name)) == [items[2], items[0]]
    assert sorted(os.listdir(tmp_path)) == sorted(["images", name])


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_lists_objects_and_parts_come_back_the_same(tmp_path, name):
    columns = {
        "tags": [["a"], []],
        "size": [{"w": 1, "h": None}, {"w": None, "h": 2.5}],
        "year": ["2011", "x"],
        "ok": [True, None],
    }
    columns["text_parts"] = [[{"text": "x", "weight": 1.0}], []]
    items = validate_items(Dataset.from_dict({"id": ["a", "b"], "text": ["x", "y"], **columns}))
    write_items(items, tmp_path / name)
    assert list(read_items(tmp_path / name)) == list(items)


@pytest.mark.parametrize("name", ["a.parquet", "saved"])
def test_encoded_images_come_back_the_same(tmp_path, name):
    images = [{"bytes": b"\xff\xd8", "path": None}, None]
    items = validate_items(Dataset.from_dict({"id": ["a", "b"], "text": [None, "x"], "image": images}))
    write_items(items, tmp_path / name)
    assert list(read_items(tmp_path / name)) == list(items)
    if name == "saved":
        assert list(load_from_disk(str(tmp_path / name))) == list(items)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_text_file_holds_no_bytes_and_nothing_is_left_behind(tmp_path, name):
    (tmp_path / name).write_text("before")
    items = Dataset.from_dict({"id": ["z", "a"], "text": ["x", None], "image": [None, {"bytes": b"x", "path": None}]})
    with pytest.raises(DataError, match="row 1: field 'image': an image held as bytes"):
        write_items(items, tmp_path / name)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "before"


def test_paths_are_relative_to_the_root(items, tmp_path):
    target = tmp_path / "elsewhere" / "a.jsonl"
    with pytest.raises(DataError, match="is not under .*pass image_root"):
        write_items(items, target)
    write_items(items, target, image_root=tmp_path)
    assert str(tmp_path) not in target.read_text() and "images/a b.jpg" in target.read_text()
    assert list(read_items(target, image_root=tmp_path)) == list(items)


@pytest.mark.security
def test_formulas_are_disarmed_and_numbers_left_alone(items, tmp_path):
    write_items(items, tmp_path / "a.csv")
    again = read_items(tmp_path / "a.csv")
    assert again["id"][:] == ["1", "'=two", 'x,"y"\n']
    assert again["text"][2] == "'@cmd" and again["brand"][1] == "'+1 a"
    assert again["price"][:] == [1.5, None, -2.0]


def test_an_unknown_extension_is_named(items, tmp_path):
    with pytest.raises(DataError, match=r"'\.jsnl' is not written; did you mean '\.jsonl'"):
        write_items(items, tmp_path / "a.jsnl")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.parquet", "saved"])
def test_pairs_come_back_the_same(tmp_path, name):
    pairs = Dataset.from_dict(
        {
            "query_id": ["q", "r"],
            "positive_ids": [['a,"b"', "é"], ["1"]],
            "negative_ids": [[], ["2"]],
            "negative_scores": [[], [0.25]],
            "prompt": [None, "find: "],
        }
    )
    write_pairs(pairs, tmp_path / name)
    assert list(read_pairs(tmp_path / name)) == list(pairs)


def test_pairs_are_checked_before_they_are_written(tmp_path):
    pairs = Dataset.from_dict({"query_id": ["q"], "positive_ids": [["a"]], "negative_ids": [["a"]]})
    for name in ("a.jsonl", "a.parquet"):
        with pytest.raises(DataError, match="row 0: field 'negative_ids': id 'a' is also a positive"):
            write_pairs(pairs, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_no_rows(tmp_path):
    items = validate_items(Dataset.from_dict({"id": ["a"], "text": ["x"]})).select([])
    write_items(items, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no rows"):
        read_items(tmp_path / "a.parquet")
