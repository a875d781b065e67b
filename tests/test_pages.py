from __future__ import annotations

import html
import os
import re

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageDraw

from mmembed import lettering as lettering_module
from mmembed.lettering import Lettering
from mmembed.pages import SheetHit, SheetRow, contact_sheet, escape_markdown, markdown_table, text_table

GREEN, RED, GREY = (ImageColor.getrgb(colour) for colour in ("#1a7f37", "#cf222e", "#c4c9d0"))
PINK = (255, 0, 255)  # no colour of the page

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "---\nlicense: evil\n---",
    "{{ config }} {% raw %}",
    "a | b | c",
    "[click](javascript:alert(1))",
    "![x](http://tracker/x.png)",
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "2) item",
    "-0.5 and 3.14",
    "> quote",
    "`code` ``more``",
    "*bold* _slanted_ __strong__ snake_case_name ~~gone~~",
    "back\\slash \\| \\` $x$",
    "&lt; &amp; &copy;",
    "===",
    "连衣裙 платье",
    "<!-- comment -->",
    "<https://evil.example>",
]


def picture(colour=PINK, size=(50, 50)):
    return Image.new("RGB", size, colour)


def framed(page, colour, thumb):
    """How many frames of a colour there are: each has two edges as long as a thumbnail, three pixels thick."""
    edges = 0
    for line in (np.asarray(page) == colour).all(axis=2):
        ends = np.flatnonzero(np.diff(np.concatenate([[0], line, [0]])))  # starts and ends of runs of the colour
        edges += np.count_nonzero(ends[1::2] - ends[::2] == thumb)
    return edges / 6


@pytest.mark.parametrize("thumb", [64, 112])
def test_frames_tell_hits_from_misses(tmp_path, thumb):
    verdicts = [[True, False, False], [False, None], [True, True, False]]
    rows = [
        SheetRow(f"query {n}", hits=[SheetHit(picture(), None, 0.5, v) for v in row]) for n, row in enumerate(verdicts)
    ]
    page = Image.open(contact_sheet(rows, tmp_path / "new" / "sheet.png", title="Shoes", thumb=thumb))
    assert (page.format, page.mode) == ("PNG", "RGB")
    assert [framed(page, colour, thumb) for colour in (GREEN, RED, GREY)] == [3, 4, 1]
    first_two = Image.open(contact_sheet(rows, tmp_path / "sheet.png", title="Shoes", thumb=thumb, columns=2))
    assert [framed(first_two, colour, thumb) for colour in (GREEN, RED, GREY)] == [3, 2, 1]


def test_pictures_keep_their_proportions_and_transparency_is_white(tmp_path):
    transparent = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    row = SheetRow(
        query_image=picture(size=(30, 60)), hits=[SheetHit(transparent), SheetHit(Image.new("L", (9, 9), 7))]
    )
    page = Image.open(contact_sheet([row], tmp_path / "sheet.png", title="Shoes", thumb=100))
    pink = (np.asarray(page) == PINK).all(axis=2)
    columns, lines = np.flatnonzero(pink.any(axis=0)), np.flatnonzero(pink.any(axis=1))
    assert (len(columns), len(lines)) == (50, 98)  # 100 high without the thin line around the query
    colours = {colour for _, colour in page.getcolors(1 << 20)}
    assert (7, 7, 7) in colours and (0, 0, 0) not in colours


def test_the_file_is_the_same_each_time_and_replaces_the_old_one_whole(tmp_path, monkeypatch):
    rows = [SheetRow("Красное платье 红色连衣裙", hits=[SheetHit(picture(), "caption", 0.25, True)])]
    path = contact_sheet(rows, tmp_path / "sheet.png", title="Dresses", subtitle="recall@1 .5")
    first = path.read_bytes()
    assert contact_sheet(rows, path, title="Dresses", subtitle="recall@1 .5").read_bytes() == first
    assert contact_sheet(rows, path, title="Shoes").read_bytes() != first
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        contact_sheet(rows, path, title="Dresses")
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["sheet.png"]


def test_everything_drawn_stays_on_the_page(tmp_path):
    long = "Superlongword" * 40
    rows = [
        SheetRow(long, picture(), [SheetHit(picture(), long, 0.123456, False), SheetHit(None, long, None, True)]),
        SheetRow("\x00\x1b[31m\u202e\ud800 " + "x " * 100_000),
        SheetRow(),
    ]
    page = Image.open(contact_sheet(rows, tmp_path / "sheet.png", title=long, subtitle=long))
    border = page.crop((page.width - 36 + 1, 0, page.width, page.height))
    assert border.getcolors() == [(border.width * border.height, (255, 255, 255))]


def test_errors_say_what_was_got(tmp_path):
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([], tmp_path / "sheet.png", title="Shoes")
    with pytest.raises(ValueError, match=r"20000 rows and 1 columns would have \d+x\d+ pixels"):
        contact_sheet([SheetRow(hits=[SheetHit()])] * 20_000, tmp_path / "sheet.png", title="Shoes")
    with pytest.raises(OSError):
        contact_sheet([SheetRow()], tmp_path / "sheet.png", title="Shoes", fonts=["/no/such/font.ttf"])
    assert list(tmp_path.iterdir()) == []


def test_lines_fit_and_lose_nothing():
    small = Lettering(13)
    text = "a long red dress with a belt, made of cotton, for summer"
    lines = small.wrap(text, width=110, lines=50)
    assert " ".join(lines) == text and all(small.width(line) <= 110 for line in lines)
    # Greedy: no word would have fitted on the line before.
    assert all(small.width(f"{a} {b.split()[0]}") > 110 for a, b in zip(lines, lines[1:]))
    word = "W" * 60
    pieces = small.wrap(word, width=110, lines=50)
    assert "".join(pieces) == word and all(small.width(piece) <= 110 for piece in pieces)


def test_what_does_not_fit_says_so():
    small = Lettering(13)
    lines = small.wrap("one two three four five six seven eight nine", width=70, lines=2)
    assert len(lines) == 2 and lines[1].endswith("…") and small.width(lines[1]) <= 70
    assert small.wrap("one", width=70, lines=2) == ["one"] and small.wrap(" \n ", width=70, lines=2) == []


def ink(lettering, text):
    page = Image.new("L", (400, 40))
    lettering.draw(ImageDraw.Draw(page), (2, 2), text, "white")
    return page.tobytes()


def test_a_character_without_a_glyph_is_named(monkeypatch):
    monkeypatch.setattr(lettering_module, "_EAST_ASIAN", ())
    plain = Lettering(16)
    assert plain.wrap("红 dress \U00020000", width=900, lines=1) == ["\\u7ea2 dress \\U00020000"]
    assert ink(plain, "红") == ink(plain, "\\u7ea2") != ink(plain, "裙")


def test_cyrillic_is_drawn_where_dejavu_is():
    letters = Lettering(16)
    if letters.wrap("ж", width=900, lines=1) != ["ж"]:
        pytest.skip("no font with Cyrillic letters is installed")
    assert ink(letters, "ж") != ink(letters, "щ") and ink(letters, "ж") != ink(letters, "\\u0436")


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_markdown_shows_the_text_itself(text):
    markdown_it = pytest.importorskip("markdown_it")
    renderer = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    one_line = " ".join(text.split())
    for source, tags in (
        (escape_markdown(text), {"p"}),
        (f"Trained on {escape_markdown(text)}, twice.", {"p"}),
        (f"- {escape_markdown(text)}", {"ul", "li"}),
        (markdown_table([[text, 1]], ["name", text]), {"table", "thead", "tbody", "tr", "th", "td"}),
    ):
        page = renderer.render(source)
        assert set(re.findall(r"<(\w+)", page)) == tags, page
        assert html.unescape(re.sub(r"<[^>]+>", " ", page)).count(one_line) == (2 if "table" in tags else 1), page
        assert "{{" not in source and "{%" not in source and "\n---" not in source


def test_markdown_table_by_hand():
    table = markdown_table([["CLIP", 0.26912345, None], ["ours", -1, 12]], ["model", "R@1", "n"])
    assert table.splitlines() == [
        "| model | R@1 | n |",
        "| :--- | ---: | ---: |",
        "| CLIP | 0.2691 |  |",
        "| ours | -1 | 12 |",
    ]


def test_text_table_is_aligned_in_a_terminal():
    rows = [["连衣裙", 1.0, "é"], ["e\u0301", 100, "x"], ["a\x1b[31m\n", None, ""]]
    table = text_table(rows, ["name", "n", "mark"])
    assert table.splitlines() == [
        "name             n  mark",
        "-------------  ---  ----",
        "连衣裙           1  é",
        "e\u0301              100  x",
        "a\\x1b[31m\\x0a",
    ]
    assert "\x1b" not in table


def test_tables_want_a_cell_for_each_column():
    for table in (markdown_table, text_table):
        with pytest.raises(ValueError, match="row 1 has 1 cells and the header 2"):
            table([[1, 2], [3]], ["a", "b"])
