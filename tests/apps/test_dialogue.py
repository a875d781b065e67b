"""`mmembed browse --dialogue` in a process, and a person who answers in a headless browser, from the first words to the end.

There are 64 products, one for each of 4 colours, 4 patterns and 4 sizes, and the first words fit all alike. So each right
answer leaves a quarter of them, and the rank of the one that is looked for, the middle of all that fit, is known by hand.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import signal
from collections.abc import Iterator

import pytest
from datasets import Dataset, Features, Image, Value

from mmembed.data.writing import write_items
from tests.apps.open_page import Hand, RunningPage, running_page
from tests.apps.test_browse import picture, png
from tests.evaluation.headless_page import CHROMIUM, WHY_NOT, HeadlessPage

MISSING = [name for name in ("gradio", "bm25s") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"no {MISSING} here; pip install 'mmembed[browse,lexical]'"),
    pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT),
]

HOSTILE = "<img src=x onerror=document.title='hacked'>"
VALUES = {
    "colour": ("red", "blue", "<b onclick=alert(1)>green", "${6*7} {{grey}}"),
    "pattern": ("plain", "dots", "stripes", "checks"),
    "size": ("small", "medium", "large", "huge"),
}
ITEMS = [
    {"id": f"m{n:02}", "text": f"a plain mug number{n} {HOSTILE}", **dict(zip(VALUES, values))}
    for n, values in enumerate(itertools.product(*VALUES.values()))
]
RANKS = ["32.5", "8.5", "2.5", "1"]  # the middle of 64, 16, 4 and 1


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[RunningPage]:
    folder = tmp_path_factory.mktemp("mugs")
    rows = [{**item, "image": {"bytes": png(picture(n)), "path": None}} for n, item in enumerate(ITEMS)]
    features = Features({name: Image(decode=False) if name == "image" else Value("string") for name in rows[0]})
    write_items(Dataset.from_list(rows, features=features), folder / "items.parquet", image_root=folder)
    with running_page(["--dialogue", "--items", "items.parquet", "--no_show_progress_bar"], folder) as page:
        yield page
        assert page.stop(signal.SIGTERM) == 0 and page.said().rstrip().endswith("stopped")
        assert "Traceback" not in page.said()


@pytest.fixture(scope="module")
def window(running) -> Iterator[Hand]:
    with HeadlessPage(running.address, width=1280, height=1000) as page:
        yield Hand(page)


@pytest.fixture
def hand(window) -> Hand:
    """A person who has just come to the page."""
    window.page.run("document.querySelector('#target') ? document.querySelector('#target').remove() : 0")
    window.page.send("Page.reload")
    window.until("!!document.querySelector('#target [data-act=secret]') && !!document.querySelector('#begin')")
    return window


def begin(hand: Hand) -> None:
    hand.click("#begin")
    hand.until("!!document.querySelector('#question [data-act=option]')")


def target(hand: Hand) -> dict[str, str]:
    return ITEMS[int(re.search(r"number(\d+)", hand.text("#target h2"))[1])]


def answered(hand: Hand, count: int) -> list[str]:
    """Wait until so many answers stand in the table, and read the ranks."""
    hand.until(f"document.querySelectorAll('#history tbody tr').length === {count + 1}")
    return hand.page.run("[...document.querySelectorAll('#history tbody td:last-child')].map(e => e.innerText)")


def options(hand: Hand) -> tuple[str, list[str]]:
    """What is asked about, and the options."""
    slot = re.fullmatch(r"What is its (\w+)\?", hand.text("#question .text"))[1]
    texts = hand.page.run("[...document.querySelectorAll('#question [data-act=option]')].map(e => e.textContent)")
    return slot, texts


def shown(hand: Hand) -> list[dict[str, str]]:
    texts = hand.page.run("[...document.querySelectorAll('#ranking .title')].map(e => e.getAttribute('title'))")
    return [ITEMS[int(re.search(r"number(\d+)", text)[1])] for text in texts]


def test_a_dialogue_is_played_until_the_target_stands_first(hand) -> None:
    item = target(hand)
    assert hand.page.run("document.querySelector('#query textarea, #query input').value") == "a plain mug"
    begin(hand)
    said: dict[str, str] = {}
    for count in range(3):
        assert answered(hand, count) == RANKS[: count + 1]
        fitting = [one for one in ITEMS if said.items() <= one.items()]
        seen = shown(hand)
        assert len(seen) == 12 and sum(said.items() <= one.items() for one in seen[: len(fitting)]) == min(
            12, len(fitting)
        )
        assert hand.page.run("document.querySelectorAll('#ranking img[src^=\"data:image/jpeg\"]').length") == 12
        slot, texts = options(hand)
        assert set(texts) - {"something else"} <= set(VALUES[slot]) and slot not in said
        said[slot] = item[slot]
        hand.click("#question [data-act=option]", texts.index(item[slot]))
    assert answered(hand, 3) == RANKS
    hand.until("document.querySelector('#question').innerText.includes('Found: it stands first.')")
    assert "Its rank went from 32.5 to 1 of 64 in 3 answers." in hand.text("#question")
    assert item["text"] == hand.text("#question .revealed p")  # what was looked for is shown at the end
    assert shown(hand)[0] == item and "↑" in hand.text("#ranking .card.chosen")
    assert hand.page.run("document.querySelectorAll('#history svg circle').length") == 4
    assert hand.page.run("document.querySelectorAll('#question [data-act=option], #ranking [data-act]').length") == 0
    hand.click("#question [data-act=again]")
    hand.until("!document.querySelector('#history table') && !!document.querySelector('#target [data-act=secret]')")
    assert target(hand) != item


def test_words_of_ones_own_no_idea_a_wrong_pick_and_the_end(hand) -> None:
    item = target(hand)
    begin(hand)
    hand.click("#question [data-act=unknown]")
    assert answered(hand, 1) == ["32.5", "32.5"]
    slot, _ = options(hand)
    hand.type("#words textarea, #words input", f"  {item[slot].upper()} ", enter=True)
    assert answered(hand, 2) == ["32.5", "32.5", "8.5"]
    assert hand.page.run("document.querySelector('#words textarea, #words input').value") == ""
    wrong = next(place for place, one in enumerate(shown(hand)) if one != item)
    hand.click("#ranking [data-act=pick]", wrong)
    hand.until("document.querySelector('#question').innerText.includes('another one than you were shown')")
    hand.click("#question [data-act=leave]")
    hand.until("document.querySelector('#question').innerText.includes('You ended it.')")
    assert hand.text("#question .revealed p") == item["text"]
    assert hand.page.run("(e => !e || e.getBoundingClientRect().height === 0)(document.querySelector('#words'))")


def test_what_was_chosen_secretly_is_known_once_it_is_picked(hand) -> None:
    hand.click("#target [data-act=secret]")
    hand.until("document.querySelector('#target').innerText.includes('Think of something')")
    hand.type("#query textarea, #query input", "mug", enter=True)
    hand.until("!!document.querySelector('#question [data-act=option]')")
    hand.click("#question [data-act=option]", 0)
    assert answered(hand, 1) == ["?", "?"]
    picked = shown(hand)[1]
    hand.click("#ranking [data-act=pick]", 1)
    hand.until("document.querySelector('#question').innerText.includes('Found: you picked it.')")
    assert answered(hand, 1) == ["32.5", "8.5"]  # the same dialogue, now that the target is known
    assert target(hand) == picked and hand.text("#question .revealed p") == picked["text"]


def test_first_words_that_say_nothing_are_told_and_ones_that_fit_nothing_begin_anywhere(hand) -> None:
    hand.type("#query textarea, #query input", "", enter=True)
    hand.until("document.querySelector('#question').innerText.includes('say in a few words')")
    hand.type("#query textarea, #query input", "zeppelin", enter=True)
    hand.until("!!document.querySelector('#question [data-act=option]')")
    assert answered(hand, 0) == ["32.5"]


@pytest.mark.security
def test_texts_of_the_data_are_texts_and_nobody_else_is_asked(hand, running) -> None:
    begin(hand)
    for _ in range(3):  # the colour is asked about among them
        if options(hand)[0] == "colour":
            break
        hand.click("#question [data-act=unknown]")
        hand.until("!!document.querySelector('#question [data-act=option]')")
    assert set(VALUES["colour"]) <= set(options(hand)[1])
    hand.page.run("document.querySelectorAll('#ranking details').forEach(one => { one.open = true; })")
    inside = "document.querySelectorAll('#target b, #ranking b[onclick], #question b, .mm script, .mm a, .mm [onerror], .mm [onclick], .mm img:not([src^=\"data:image/jpeg\"])').length"
    assert hand.page.run(f"[document.title, {inside}]") == ["A search that asks back", 0]
    assert HOSTILE in hand.text("#target h2") and "${6*7} {{grey}}" in hand.text("#question")
    assert hand.errors() == [] and hand.elsewhere(running.address) == []


def test_it_is_readable_on_a_phone_in_the_dark(running, tmp_path) -> None:
    with HeadlessPage(running.address, width=390, height=844, dark=True, mobile=True) as page:
        hand = Hand(page)
        hand.until("!!document.querySelector('#target [data-act=secret]')")
        begin(hand)
        hand.until("document.querySelectorAll('#ranking .card').length === 12")
        assert page.run("document.documentElement.scrollWidth") <= 390
        box = page.run(
            "(() => { const b = document.querySelector('#question [data-act=option]').getBoundingClientRect(); return [b.width, b.height]; })()"
        )
        assert min(box) >= 40  # a finger's width
        assert hand.errors() == []
