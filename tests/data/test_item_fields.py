"""Which columns make an item, and how a text is made of several."""

import pytest

from mmembed.data.item_fields import ItemFields


def _text(row, **options):
    return ItemFields(**options).text_of(row)


def test_several_columns_are_joined_and_absent_ones_leave_nothing():
    assert _text({"a": " red", "b": "skirt "}, text_column=["a", "b"]) == ("red skirt", None)
    assert _text({"a": None, "b": "skirt"}, text_column=["a", "b"]) == ("skirt", None)
    assert _text({"a": None, "b": "  "}, text_column=["a", "b"]) == (None, None)


def test_a_template_collapses_what_is_missing():
    options = {"text_template": "{brand} {title}, {{size}} {size}"}
    assert _text({"brand": "Palm", "title": "Red  skirt", "size": 38}, **options)[0] == "Palm Red skirt, {size} 38"
    assert _text({"brand": None, "title": "skirt"}, **options)[0] == "skirt, {size}"
    assert _text({}, **options)[0] is None


def test_a_value_that_looks_like_a_template_is_only_text():
    assert _text({"a": "{b}", "b": "x"}, text_template="{a}")[0] == "{b}"


@pytest.mark.security
@pytest.mark.parametrize(
    "template", ["{a.__class__}", "{a[0]}", "{a!r}", "{a:>99}", "{}", "{0}", "{a", "no field", "{a:{b}}"]
)
def test_a_template_is_plain_names_only(template):
    with pytest.raises(ValueError, match="text_template"):
        ItemFields(text_template=template)


@pytest.mark.parametrize("value", [True, ["a"], {"a": 1}, float("nan")])
def test_a_template_takes_strings_and_numbers_only(value):
    with pytest.raises(ValueError) as caught:
        _text({"a": value}, text_template="{a}")
    assert caught.value.args[0] == "a"


def test_parts_are_weighted_and_renormalised():
    parts = {"title": 0.9, "description": 0.1, "brand": 1.0}
    text, some = _text({"title": "hat", "description": "warm", "brand": " "}, text_parts=parts)
    assert text == "hat"
    assert some == [{"text": "hat", "weight": pytest.approx(0.9)}, {"text": "warm", "weight": pytest.approx(0.1)}]
    assert _text({"description": "warm"}, text_parts=parts) == ("warm", [{"text": "warm", "weight": 1.0}])
    assert _text({}, text_parts=parts) == (None, [])


@pytest.mark.parametrize(
    "options",
    [
        {"text_parts": {}},
        {"text_parts": {"a": 0}},
        {"text_parts": {"a": -1.0}},
        {"text_parts": {"a": float("inf")}},
        {"text_parts": {"a": True}},
        {"text_parts": {"a": 1}, "text_template": "{a}"},
        {"text_parts": {"a": 1}, "text_column": "b"},
        {"text_template": "{a}", "text_column": "b"},
        {"text_column": []},
        {"text_column": [1]},
        {"id_column": None},
        {"keep_columns": "price"},
        {"blank_text": "drop"},
        {"image_column": 3},
    ],
)
def test_contradictions_are_refused(options):
    with pytest.raises(ValueError):
        ItemFields(**options)


def test_a_section_of_yaml():
    assert ItemFields.from_mapping({"text_template": "{a}", "text_column": ["a"]}).text_sources == ("a",)
    with pytest.raises(ValueError, match="'text_colum' is not one of .*did you mean 'text_column'"):
        ItemFields.from_mapping({"text_colum": "title"})


def test_blank_text():
    assert _text({"text": " \n"}) == (None, None)
    with pytest.raises(ValueError, match="blank"):
        _text({"text": " \n"}, blank_text="error")
