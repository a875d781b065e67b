"""Items are shown by their text, a small picture and their attributes; nothing of it is markup."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow

from mmembed.apps.item_cards import ItemCards, facts, frame, value_text
from mmembed.images import ImagePolicy, ImageReader


class Tags(HTMLParser):
    """The names of all elements and attributes, as a browser reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def png(colour: str, size: tuple[int, int] = (400, 200)) -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def table(rows: list[dict]) -> Dataset:
    kinds = {"price": Value("float64"), "image": Image(decode=False)}
    return Dataset.from_list(rows, features=Features({name: kinds.get(name, Value("string")) for name in rows[0]}))


def test_pictures_are_small_jpegs_of_the_same_colours() -> None:
    items = table([{"id": "a", "text": "mug", "image": {"bytes": png("#c02040"), "path": None}, "price": 9.5}])
    shown = ItemCards(items, side=100).shown(["a", "gone"])
    uri = shown[0].picture
    assert uri is not None and uri.startswith("data:image/jpeg;base64,")
    picture = Pillow.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert picture.size == (100, 50) and all(
        abs(a - b) < 6 for a, b in zip(picture.getpixel((50, 25)), (0xC0, 0x20, 0x40))
    )
    assert shown[0].attributes == (("price", "9.5"),)
    assert (shown[1].id, shown[1].text, shown[1].picture) == ("gone", "gone", None)
    assert "no picture" in frame(shown[1])


def test_a_text_that_each_item_has_of_its_own_and_prose_are_no_attributes() -> None:
    rows = [
        {
            "id": f"{n}",
            "text": "t",
            "image": None,
            "colour": f"c{n % 3}",
            "name": f"name {n}",
            "story": "word " * 30,
            "none": None,
        }
        for n in range(40)
    ]
    assert ItemCards(table(rows)).columns == ["colour"]
    assert ItemCards(table(rows), columns=["name", "colour", "absent"]).columns == ["name", "colour"]
    assert ItemCards(None).shown(["x"])[0].text == "x"


def test_values_in_words() -> None:
    assert [value_text(value) for value in (2012, 23.99, 1e6, float("nan"), False, "x", ["a", None, "b"], {"a": 1, "b": None})] == [
        "2012", "23.99", "1e+06", "", "no", "x", "a, b", "a 1",
    ]  # fmt: skip
    assert value_text(b"bytes") == "" and value_text([]) == ""


@pytest.mark.security
def test_no_text_of_an_item_becomes_markup() -> None:
    hostile = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>\u202e ![](http://evil.example/x.png) ${1+1} {{value}}"
    items = table([{"id": hostile, "text": hostile, "image": None, "colour": hostile[:50], hostile: "a"}])
    cards = ItemCards(items)
    shown = cards.shown([hostile])[0]
    html = cards.about(shown) + frame(shown) + facts(shown)
    read = Tags()
    read.feed(html)
    assert read.tags <= {"div", "details", "summary", "bdi", "dl", "dt", "dd", "span"}
    assert read.attributes <= {"class", "dir", "title"}
    assert "onerror=alert(1)&gt;" in html and "\u202e" not in html


@pytest.mark.security
def test_pictures_are_read_below_their_root_alone_and_bad_ones_are_gaps(tmp_path, caplog) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "good.png").write_bytes(png("red"))
    (tmp_path / "secret.png").write_bytes(png("blue"))
    paths = ("good.png", "../secret.png", str(tmp_path / "secret.png"), "http://127.0.0.1:9/x.png", "none.png")
    rows = [{"id": f"{n}", "text": "t", "image": {"bytes": None, "path": path}} for n, path in enumerate(paths)]
    rows.append({"id": "svg", "text": "t", "image": {"bytes": b"<svg onload=alert(1)>", "path": None}})
    cards = ItemCards(table(rows), ImageReader(ImagePolicy(root=tmp_path / "shop")))
    assert [one.picture is not None for one in cards.shown([row["id"] for row in rows])] == [True] + [False] * 5
    assert [record.levelname for record in caplog.records].count("WARNING") == 1  # and not one for each
    assert [one.picture for one in ItemCards(table(rows)).shown(["0"])] == [None]  # no root, no file
