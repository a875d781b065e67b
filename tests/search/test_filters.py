"""Filters against conditions written out by hand, and what they refuse."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from mmembed.data.reading import read_items
from mmembed.data.schema import IMAGE_FEATURE, validate_items
from mmembed.search.filters import FilterError, allowed_ids, filter_columns, parse_filters

ROWS = [
    {
        "id": "a",
        "colour": "red",
        "price": 10,
        "rating": 4.5,
        "new": True,
        "tags": ["summer", "sale"],
        "size": {"eu": 38},
    },
    {"id": "b", "colour": "blue", "price": 20, "rating": math.nan, "new": False, "tags": [], "size": {"eu": 40}},
    {"id": "c", "colour": "red", "price": 30, "rating": None, "new": None, "tags": None, "size": None},
    {"id": "d", "colour": None, "price": None, "rating": 1.0, "new": True, "tags": ["sale"], "size": {"eu": None}},
    {
        "id": "e",
        "colour": "Ärmel=lang",
        "price": 40,
        "rating": 3.0,
        "new": False,
        "tags": ["winter"],
        "size": {"eu": 38},
    },
]
FEATURES = Features(
    id=Value("string"), colour=Value("string"), price=Value("int64"), rating=Value("float64"), new=Value("bool"),
    tags=List(Value("string")), size={"eu": Value("int64")},
)  # fmt: skip
ITEMS = Dataset.from_list(ROWS, features=FEATURES)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "abcde"),
        ({"colour": "red"}, "ac"),
        ({"colour": ["red", "blue"]}, "abc"),
        ({"colour": {"blue"}}, "b"),
        ({"colour": []}, ""),
        ({"colour": None}, "d"),
        ({"price": 20}, "b"),
        ({"price": 20.0}, "b"),
        ({"price": [10, 40, 99]}, "ae"),
        ({"price": (None, 20)}, "ab"),
        ({"price": (20, None)}, "bce"),
        ({"price": (15, 35)}, "bc"),
        ({"price": (20, 20)}, "b"),
        ({"price": (None, None)}, "abce"),
        ({"price": (1000, 2000)}, ""),
        ({"price": np.int64(20)}, "b"),
        ({"rating": (0, 5)}, "ade"),
        ({"rating": None}, "c"),
        ({"new": True}, "ad"),
        ({"new": [True, False]}, "abde"),
        ({"tags": "sale"}, "ad"),
        ({"tags": ["winter", "summer"]}, "ae"),
        ({"tags": None}, "c"),
        ({"size.eu": 38}, "ae"),
        ({"size.eu": (39, None)}, "b"),
        ({"colour": "red", "price": (None, 15), "new": True}, "a"),
        ({"colour": "red", "new": False}, ""),
        ({"id": ["b", "d"]}, "bd"),
    ],
)
def test_items_that_meet_the_conditions(filters: dict, expected: str) -> None:
    assert allowed_ids(ITEMS, filters) == list(expected)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"color": "red"}, "no column 'color' to filter by; did you mean 'colour'"),
        ({"weight": 3}, "no column 'weight' to filter by. There are: id, colour, price"),
        ({"size": 38}, "did you mean"),
        ({"size.us": 38}, "did you mean 'size.eu'"),
        ({"colour": "rde"}, "colour: no item has 'rde'; did you mean 'red'"),
        ({"colour": ["red", "bleu"]}, "no item has 'bleu'; did you mean 'blue'"),
        ({"colour": "Red"}, "did you mean 'red'"),
        ({"colour": "qqqqqq"}, "it has 'blue', 'red', 'Ärmel=lang'"),
        ({"tags": "summr"}, "did you mean 'summer'"),
        ({"colour": 3}, "colour: found integer 3, the column holds texts"),
        ({"price": "20"}, "price: found string '20', the column holds numbers"),
        ({"price": True}, "the column holds numbers"),
        ({"price": math.nan}, "the column holds numbers"),
        ({"new": "true"}, "the column holds true and false"),
        ({"new": 1}, "the column holds true and false"),
        ({"colour": ("a", "b")}, "ranges are of numbers"),
        ({"new": (0, 1)}, "ranges are of numbers"),
        ({"price": (1, 2, 3)}, "two ends"),
        ({"price": (5, 1)}, "begins above its end"),
        ({"price": ("1", None)}, "the column holds numbers"),
        ({"colour": [["red"]]}, "the column holds texts"),
        ({"colour": {"eq": "red"}}, "the column holds texts"),
        ([("colour", "red")], "give conditions by column"),
        ({3: "red"}, "no column 3"),
    ],
)
def test_conditions_that_cannot_be_meant(filters, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        allowed_ids(ITEMS, filters)


def test_equals_brute_force() -> None:
    generator = np.random.default_rng(0)
    rows = [
        {
            "id": str(number),
            "kind": str(generator.choice(["x", "y", "z"])) if generator.random() < 0.9 else None,
            "price": int(generator.integers(100)) if generator.random() < 0.9 else None,
        }
        for number in range(500)
    ]
    items = Dataset.from_list(rows)
    for _ in range(50):
        kinds = [
            str(one) for one in generator.choice(["x", "y", "z"], size=int(generator.integers(1, 3)), replace=False)
        ]
        low, high = sorted(generator.integers(0, 100, size=2).tolist())
        expected = [
            row["id"]
            for row in rows
            if row["kind"] in kinds and row["price"] is not None and low <= row["price"] <= high
        ]
        assert allowed_ids(items, {"kind": kinds, "price": (low, high)}) == expected


def test_every_table_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("id,text,price,brand\n1,mug,3.5,\n2,cup,7,Ä\n")
    items = read_items(tmp_path / "items.csv")
    assert filter_columns(items) == {"id": "text", "text": "text", "group": "text", "price": "number", "brand": "text"}
    assert allowed_ids(items, {"price": (5, None)}) == ["2"] and allowed_ids(items, {"brand": None}) == ["1"]
    assert allowed_ids(items, {"group": None}) == ["1", "2"]
    # selected, shuffled and formatted tables too
    assert allowed_ids(items.select([1, 0]).with_format("numpy"), {"price": (None, 10)}) == ["2", "1"]
    assert allowed_ids(items.select([]), {"brand": "Ä", "price": 3}) == []


def test_class_labels_are_filtered_by_name_and_images_not_at_all() -> None:
    features = Features(id=Value("string"), kind=ClassLabel(names=["mug", "hat"]), image=IMAGE_FEATURE)
    rows = {"id": ["a", "b", "c"], "kind": [0, 1, None], "image": [{"bytes": b"1", "path": None}] * 3}
    items = validate_items(Dataset.from_dict(rows, features=features))
    assert allowed_ids(items, {"kind": "hat"}) == ["b"]
    assert "image" not in filter_columns(items) and "image.bytes" not in filter_columns(items)
    with pytest.raises(FilterError, match="no column 'image'"):
        allowed_ids(items, {"image": None})


def test_chunked_and_large_columns() -> None:
    table = pa.table({"id": pa.array(["a", "b"], pa.large_string()), "kind": pa.chunked_array([["x"], ["y"]])})
    assert allowed_ids(Dataset(table), {"kind": "y"}) == ["b"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["colour=red"], {"colour": "red"}),
        (["colour=Ärmel=lang"], {"colour": "Ärmel=lang"}),
        (["colour=red", "colour=blue"], {"colour": ["red", "blue"]}),
        (["colour=null"], {"colour": None}),
        (["colour=1..2"], {"colour": "1..2"}),
        (["price=20"], {"price": 20.0}),
        (["price=..50"], {"price": (None, 50.0)}),
        (["price=10.."], {"price": (10.0, None)}),
        (["price=1.5..2.5"], {"price": (1.5, 2.5)}),
        (["price=-3..-1"], {"price": (-3.0, -1.0)}),
        (["new=True"], {"new": True}),
        (["tags=sale", "size.eu=38"], {"tags": "sale", "size.eu": 38.0}),
    ],
)
def test_words_of_a_command_line(words: list[str], expected: dict) -> None:
    assert parse_filters(words, ITEMS) == expected
    if expected:
        assert isinstance(allowed_ids(ITEMS, {k: v for k, v in expected.items() if v != "1..2"}), list)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["colour"], "write column=value"),
        (["=red"], "write column=value"),
        (["color=red"], "did you mean 'colour'"),
        (["price=cheap"], "price: found 'cheap'"),
        (["price=1..cheap"], "price: found 'cheap'"),
        (["price=nan"], "price: found 'nan'"),
        (["price=1.2.3"], "price: found"),
        (["new=yes"], "new: found 'yes'"),
        (["price=1..2", "price=5"], "a range or null stands alone"),
    ],
)
def test_words_that_cannot_be_meant(words: list[str], message: str) -> None:
    with pytest.raises(FilterError, match=message):
        parse_filters(words, ITEMS)
