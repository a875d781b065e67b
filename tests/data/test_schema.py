"""ITEMS and PAIRS are checked value by value, and a message says where, what and what to do."""

import pickle

import pytest
from datasets import Dataset, Features, Image, List, Value

from mmembed.data.schema import (
    DataError,
    check_group,
    check_id,
    check_id_list,
    check_text,
    nearest,
    shown,
    validate_items,
    validate_pairs,
)


def test_an_error_knows_its_place_and_survives_a_worker():
    error = DataError("found 'abc'; write a number", file="products.jsonl", line=17, field="price")
    assert str(error) == "products.jsonl:17: field 'price': found 'abc'; write a number"
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.file, copy.line, copy.field) == (str(error), "products.jsonl", 17, "price")
    assert str(DataError("x", file="a.parquet", row=0, field="id")).startswith("a.parquet: row 0: field 'id': ")


def test_long_values_are_cut_in_messages():
    assert len(shown("a" * 1_000_000)) < 100
    assert shown(b"\x00" * 10) == "10 bytes"


@pytest.mark.parametrize(("value", "expected"), [("a", "a"), (7, "7"), (-1, "-1"), (10**30, str(10**30))])
def test_ids_are_strings_or_integers(value, expected):
    assert check_id(value) == expected


@pytest.mark.parametrize("value", [1.0, True, None, "", "  ", [], {}, b"a", "a\0", "\ud800"])
def test_other_ids_are_refused(value):
    with pytest.raises(ValueError):
        check_id(value)


def test_a_blank_group_is_no_group():
    assert [check_group(value) for value in (None, "", " ", 0, "a")] == [None, None, None, "0", "a"]
    with pytest.raises(ValueError, match="Int64"):
        check_group(12.0)


@pytest.mark.parametrize("value", [1, 1.5, True, ["a"], b"a", "a\0b", "a\udfffb"])
def test_a_text_is_never_made_of_something_else(value):
    with pytest.raises(ValueError):
        check_text(value)
    assert check_text("👨‍👩‍👧 é ряд") == "👨‍👩‍👧 é ряд"


def test_a_string_is_not_a_list_of_characters():
    with pytest.raises(ValueError, match=r"expected a list of ids; one id is written as \['abc'\]"):
        check_id_list("abc")
    with pytest.raises(ValueError, match="'7' is listed twice"):
        check_id_list([7, "7"])


def test_nearest_ignores_case_and_gives_up_on_strangers():
    assert nearest("Titel", ["id", "TITLE"]) == "TITLE"
    assert nearest("zzz", ["id", "title"]) is None


def test_items_get_exactly_the_types_of_items():
    table = Dataset.from_dict({"price": [1, 2], "id": ["a", "b"], "text": ["x", None]}).add_column(
        "image", [None, {"bytes": b"x", "path": None}], feature=Image()
    )
    items = validate_items(table)
    assert items.column_names == ["id", "text", "image", "group", "price"]
    assert items.features["image"] == Image(decode=False)
    assert items.features["group"] == Value("string")
    assert items[1] == {"id": "b", "text": None, "image": {"bytes": b"x", "path": None}, "group": None, "price": 2}


@pytest.mark.parametrize(
    ("columns", "row", "field", "message"),
    [
        ({"id": ["a", "b", "a"], "text": ["x"] * 3}, 2, "id", "also the id of row 0"),
        ({"id": ["a", "b"], "text": ["x", None]}, 1, "text", "neither a text nor an image"),
        ({"id": ["a", "b"], "text": ["x", "  "]}, 1, "text", "write null"),
        ({"id": ["a", ""], "text": ["x", "y"]}, 1, "id", "an empty id"),
        ({"id": ["a"], "text": ["x\0"]}, 0, "text", "NUL"),
        ({"id": ["a"], "image": [{"bytes": None, "path": "a.jpg"}]}, 0, "image", "absolute"),
        ({"id": [1], "text": ["x"]}, None, "id", "int64"),
        ({"id": ["a"], "text": [5]}, None, "text", "int64"),
        ({"Id": ["a"], "text": ["x"]}, None, "id", "did you mean 'Id'"),
        ({"id": ["a"], "txt": ["x"]}, None, None, "did you mean 'txt'"),
    ],
)
def test_what_is_not_items_is_named(columns, row, field, message):
    with pytest.raises(DataError, match=message) as caught:
        validate_items(Dataset.from_dict(columns), source="table")
    assert (caught.value.file, caught.value.row, caught.value.field) == ("table", row, field)


QUERIES = Dataset.from_dict({"id": ["q1", "q2"], "text": ["x", "y"]})
DOCUMENTS = Dataset.from_dict({"id": ["d1", "d2", "doc-10000"], "text": ["x", "y", "z"]})


def _pairs(**columns):
    return Dataset.from_dict({"query_id": ["q1"], "positive_ids": [["d1"]], "negative_ids": [["d2"]], **columns})


def test_good_pairs_pass_and_get_the_types_of_pairs():
    pairs = validate_pairs(_pairs(negative_ids=[[]], positive_scores=[[1]]), QUERIES, DOCUMENTS)
    assert pairs.features == Features(
        {
            "query_id": Value("string"),
            "positive_ids": List(Value("string")),
            "negative_ids": List(Value("string")),
            "positive_scores": List(Value("float64")),
        }
    )
    assert pairs[0] == {"query_id": "q1", "positive_ids": ["d1"], "negative_ids": [], "positive_scores": [1.0]}


@pytest.mark.parametrize(
    ("columns", "field", "message"),
    [
        ({"query_id": ["q3"]}, "query_id", "id 'q3' is not in queries"),
        ({"positive_ids": [["doc-1000"]]}, "positive_ids", "not in documents; did you mean 'doc-10000'"),
        ({"negative_ids": [["q1"]]}, "negative_ids", "id 'q1' is not in documents"),
        ({"positive_ids": [[]]}, "positive_ids", "at least one positive"),
        ({"negative_ids": [["d1"]]}, "negative_ids", "also a positive"),
        ({"positive_scores": [[1.0, 2.0]]}, "positive_scores", "2 scores for 1 positive_ids"),
        ({"negative_scores": [[float("nan")]]}, "negative_scores", "finite"),
        ({"positive_ids": [["d1", "d1"]]}, "positive_ids", "listed twice"),
        ({"positive_ids": ["d1"]}, "positive_ids", "expected a list of ids"),
    ],
)
def test_what_is_not_pairs_is_named(columns, field, message):
    with pytest.raises(DataError, match=message) as caught:
        validate_pairs(_pairs(**columns), QUERIES, DOCUMENTS, source="mined")
    assert (caught.value.file, caught.value.row, caught.value.field) == ("mined", 0, field)


def test_a_query_stands_in_one_row():
    pairs = Dataset.from_dict({"query_id": ["q1", "q1"], "positive_ids": [["d1"], ["d2"]], "negative_ids": [[], []]})
    with pytest.raises(DataError, match="row 1: field 'query_id': query 'q1' also stands in row 0"):
        validate_pairs(pairs, QUERIES, DOCUMENTS)
