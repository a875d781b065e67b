"""Controls stand for attributes that items share, and say what was chosen, as a search's filters take it."""

from __future__ import annotations

import math

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from mmembed.apps.browse.filter_controls import FilterControl, conditions, filter_controls
from mmembed.search.filters import FilterError, allowed_ids


def shop() -> Dataset:
    kinds = {
        "price": Value("float64"), "new": Value("bool"), "tags": List(Value("string")), "grade": ClassLabel(names=["low", "high"]),
        "same": Value("int64"), "place": {"city": Value("string")},
    }  # fmt: skip
    rows = [
        {
            "id": f"{n}", "text": f"text {n}", "group": f"{n % 2}", "colour": ["red", "blue", None][n % 3], "name": f"name {n}",
            "price": [1.5, math.nan, math.inf, 9.0, None][n % 5], "new": [True, False, None][n % 3], "tags": [["a"], ["a", "b"], []][n % 3],
            "grade": n % 2, "same": 7, "place": {"city": "Oslo" if n < 9 else "Bergen"},
        }
        for n in range(12)
    ]  # fmt: skip
    return Dataset.from_list(rows, features=Features({name: kinds.get(name, Value("string")) for name in rows[0]}))


def test_controls_are_of_what_items_share() -> None:
    controls = {one.column: one for one in filter_controls(shop())}
    assert list(controls) == [
        "colour",
        "price",
        "new",
        "tags",
        "grade",
        "place.city",
    ]  # no name of its own, no constant
    assert controls["colour"].choices == (("blue (4)", "blue"), ("red (4)", "red"))
    assert controls["tags"].choices == (("a (8)", "a"), ("b (4)", "b"))
    assert controls["place.city"].choices == (("Oslo (9)", "Oslo"), ("Bergen (3)", "Bergen"))
    assert (controls["price"].kind, controls["price"].low, controls["price"].high) == ("range", 1.5, 9.0)
    assert (controls["new"].kind, [value for _, value in controls["grade"].choices]) == ("truth", ["high", "low"])
    assert [one.column for one in filter_controls(shop(), ["price", "place"])] == ["price", "place.city"]
    assert filter_controls(shop().select([])) == [] and filter_controls(None) == []
    assert len(filter_controls(shop(), most=2)) == 2


def test_what_is_chosen_keeps_the_items_that_brute_force_keeps() -> None:
    items = shop()
    controls = filter_controls(items, ["colour", "price", "new"])
    for given, keeps in (
        ((["red"], "", "", "any"), lambda row: row["colour"] == "red"),
        ((["red", "blue"], "2", "", "any"), lambda row: row["colour"] and row["price"] is not None and 2 <= row["price"] <= math.inf),
        (([], " 1,5 ", "8.9", "yes"), lambda row: row["new"] is True and row["price"] == 1.5),
        (([], "9", "1", "no"), lambda row: row["new"] is False and row["price"] in (1.5, 9.0)),  # the ends the other way round
        ((["purple"], None, None, "any"), lambda row: True),  # nothing that was offered
    ):  # fmt: skip
        wanted = [row["id"] for row in items if keeps(row)]
        chosen = conditions(controls, given)
        assert (allowed_ids(items, chosen) if chosen else items["id"][:]) == wanted, given


@pytest.mark.parametrize("typed", ["cheap", "1e999", "nan", "1.2.3", "<b>"])
def test_what_is_no_number_is_said(typed) -> None:
    with pytest.raises(FilterError, match="price: found .*, wanted a number such as 12.5"):
        FilterControl("price", "range").condition("1", typed)


@pytest.mark.security
def test_what_a_request_puts_in_place_of_a_choice_is_no_condition() -> None:
    colour = FilterControl("colour", "choice", (("red (2)", "red"),))
    for given in (["blue"], [["red"]], [{"a": 1}], [None, 7], None, 0):
        assert colour.condition(given) is None, given
    assert FilterControl("price", "range").condition({"a": 1}, ["2"]) is None
    assert FilterControl("new", "truth").condition({"yes": 1}) is None
