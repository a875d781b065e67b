"""`mmembed browse` in a process, and a person before it in a headless browser: type, drop a picture, filter, click, compare.

Each step is compared with what NumPy finds over the same vectors.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from mmembed.data.writing import write_items
from mmembed.encode import encode_items
from mmembed.images import load_image
from mmembed.rerankers.text_pairs import load_text_reranker
from tests.apps.open_page import Hand, running_page
from tests.evaluation.headless_page import CHROMIUM, WHY_NOT, HeadlessPage
from tests.rerankers.tiny_rerankers import tiny_reranker
from tests.tiny_models import tiny_dual_encoder

MISSING = [name for name in ("gradio", "faiss") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"no {MISSING} here; pip install 'mmembed[browse,search]'"),
    pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT),
]

HOSTILE = (
    "<img src=x onerror=document.title='hacked'><script>document.title='hacked'</script> ![](http://evil.example/a.png) "
    "${document.title='hacked'} {{value}} \u202egnp <a href='javascript:alert(1)'>x</a>"
)
COLOURS = ("red", "blue", "green", HOSTILE[:50])


def picture(seed: int) -> Pillow.Image:
    """Blocks of colour, different for each seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Pillow.fromarray(blocks).resize((64, 64), Pillow.Resampling.NEAREST)


def png(image: Pillow.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class Shop:
    """Items and a model in a folder, and their vectors as this process has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny_dual_encoder()
        self.model.save_pretrained(str(folder / "model"))
        tiny_reranker(folder / "reranker")
        rows = [
            {
                "id": f"i{n:02}",
                "text": HOSTILE if n == 3 else f"word{n} colour{n % 5} {'red shirt' if n % 2 else 'blue mug'}",
                "image": {"bytes": png(picture(n)), "path": None},
                "colour": COLOURS[n % 4],
                "price": float(n),
                "new": n % 3 == 0,
                "tags": ["sale"] if n % 4 else ["sale", "gift"],
            }
            for n in range(40)
        ]
        kinds = {
            "image": Image(decode=False), "price": Value("float64"), "new": Value("bool"), "tags": List(Value("string"))
        }  # fmt: skip
        features = Features({name: kinds.get(name, Value("string")) for name in rows[0]})
        self.items = Dataset.from_list(rows, features=features)
        self.ids: list[str] = self.items["id"][:]
        write_items(self.items, folder / "items.parquet", image_root=folder)
        self.vectors = encode_items(self.model, self.items, use="image")

    def best(self, query: np.ndarray, k: int, keep: Any = None) -> list[str]:
        """The ids of the nearest items by brute force."""
        scores = self.vectors @ (query / np.linalg.norm(query))
        rows = [row for row in np.argsort(-scores, kind="stable").tolist() if keep is None or keep(self.items[row])]
        return [self.ids[row] for row in rows[:k]]

    def texts(self, ids: list[str]) -> list[str]:
        return [self.items[self.ids.index(id)]["text"] for id in ids]


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def running(shop):
    words = [
        "--items",
        "items.parquet",
        "--model",
        "model",
        "--k",
        "8",
        "--no_show_progress_bar",
        "--reranker",
        "reranker",
    ]
    with running_page(words, shop.folder) as page:
        uploads = list(shop.folder.glob("mmembed-page-*"))
        assert len(uploads) == 1
        yield page
        assert page.stop(signal.SIGINT) == 0 and page.said().rstrip().endswith("stopped")
        assert "Traceback" not in page.said() and not uploads[0].exists()


@pytest.fixture(scope="module")
def opened(running):
    with HeadlessPage(running.address, width=1200, height=1000) as page:
        hand = Hand(page)
        hand.until("document.querySelectorAll('#results .card').length === 8")
        hand.click("#rerank input")  # off, until it is tested
        yield hand


def titles(hand: Hand) -> list[str]:
    return hand.page.run("[...document.querySelectorAll('#results .title')].map(e => e.getAttribute('title'))")


def searched(hand: Hand, expected: list[str]) -> None:
    """Wait until the results are these."""
    wanted = json.dumps([re.sub("\u202e", "\\\\\\\\u202e", " ".join(text.split()))[:60] for text in expected])
    hand.until(
        f"(() => {{ const wanted = {wanted}; const found = [...document.querySelectorAll('#results .title')]"
        ".map(e => e.getAttribute('title').slice(0, 60)); return found.length === wanted.length && "
        "found.every((text, at) => text.startsWith(wanted[at].slice(0, 50))); })()"
    )


def test_a_text_finds_what_brute_force_finds_and_each_kind_of_vectors_is_timed(opened, shop) -> None:
    opened.type("#text textarea, #text input", "red shirt word7", enter=True)
    expected = shop.best(shop.model.encode_query("red shirt word7"), 8)
    searched(opened, shop.texts(expected))
    assert opened.page.run("document.querySelectorAll('#results .frame img[src^=\"data:image/jpeg\"]').length") == 8
    table = opened.text("#compared")
    assert re.search(r"float32\s+[\d.]+ ms\s+32\s+8 of 8", table) and re.search(
        r"binary\s+[\d.]+ ms\s+\d \+ 8 on disk", table
    )
    assert re.search(r"8 shown of 40.*encode [\d.]+ ms.*vectors [\d.]+ ms", " ".join(opened.text("#status").split()))
    first = opened.page.run("document.querySelector('#results .score').innerText")
    score = float(np.max(shop.vectors @ shop.model.encode_query("red shirt word7", normalize_embeddings=True)))
    assert first == f"{score:.3f} cosine"


def test_compressed_vectors_are_searched_instead(opened, shop) -> None:
    opened.click("#vectors input[value=int8]")
    opened.until("document.querySelector('#compared tr.on').innerText.startsWith('int8')")
    query = shop.model.encode_query("red shirt word7", normalize_embeddings=True)
    scores = [
        float(one)
        for one in opened.page.run("[...document.querySelectorAll('#results .score b')].map(e => e.innerText)")
    ]
    exact = np.sort(shop.vectors @ query)[::-1][:8]
    assert 0 < np.abs(np.array(scores) - exact).max() < 0.02  # near, and not the same
    opened.click("#vectors input[value=float32]")
    searched(opened, shop.texts(shop.best(query, 8)))


def test_filters_keep_what_meets_them(opened, shop) -> None:
    query = shop.model.encode_query("red shirt word7", normalize_embeddings=True)
    opened.click("#filters button")
    opened.click("#filters .filter input")  # the first is the colour
    opened.until("document.querySelectorAll('ul[role=listbox] li').length === 4")
    assert "blue (10)" in opened.page.run("document.querySelector('ul[role=listbox]').innerText")
    place = opened.page.run(
        "[...document.querySelectorAll('ul[role=listbox] li')].findIndex(e => e.innerText.includes('blue'))"
    )
    opened.click("ul[role=listbox] li", place)
    searched(opened, shop.texts(shop.best(query, 8, lambda item: item["colour"] == "blue")))
    assert "10 that meet the filters, of 40" in opened.text("#status")
    low = "#filters .filter:nth-child(2) :is(input, textarea)"  # the second is where the price begins
    assert opened.page.run(f"document.querySelector({json.dumps(low)}).value") == ""
    opened.type(low, "10")
    searched(opened, shop.texts(shop.best(query, 8, lambda item: item["colour"] == "blue" and item["price"] >= 10)))
    opened.type(low, "cheap")
    opened.until("document.querySelector('#status').innerText.includes('wanted a number such as 12.5')")
    opened.type(low, "")
    opened.until("document.querySelector('#status').innerText.includes('10 that meet the filters, of 40')")
    for _ in range(5):  # a click is lost that falls while the list of choices closes
        opened.click("#filters .token-remove, #filters [aria-label='Clear'], #filters .remove-all")
        with contextlib.suppress(AssertionError):
            opened.until("!document.querySelector('#status').innerText.includes('that meet the filters')", 20)
            break
    searched(opened, shop.texts(shop.best(query, 8)))


def test_more_like_a_result_and_less(opened, shop) -> None:
    query = shop.model.encode_query("red shirt word7", normalize_embeddings=True)
    before = shop.best(query, 8)
    row = [shop.ids.index(id) for id in before]
    opened.click("#results [data-act=right]", 2)
    opened.until("document.querySelector('#status').innerText.includes('more like')")
    moved = query + 0.75 * shop.vectors[row[2]]
    searched(opened, shop.texts(shop.best(moved, 8)))
    opened.click("#status [data-act=anew]")
    searched(opened, shop.texts(before))
    opened.click("#results [data-act=wrong]", 0)
    searched(opened, shop.texts(shop.best(query - 0.15 * shop.vectors[row[0]], 8)))
    opened.click("#status [data-act=anew]")
    searched(opened, shop.texts(before))
    opened.click("#results [data-act=like]", 1)
    searched(opened, shop.texts(shop.best(shop.vectors[row[1]], 9)[1:]))
    assert "like" in opened.text("#status .chip")


def test_a_picture_finds_itself_and_a_text_goes_with_it(opened, shop, tmp_path) -> None:
    path = tmp_path / "query.png"
    picture(21).save(path)
    opened.type("#text textarea, #text input", "")
    opened.drop("#image [aria-dropeffect]", path)
    expected = shop.best(shop.vectors[21], 8)
    assert expected[0] == "i21"
    searched(opened, shop.texts(expected))
    opened.type("#text textarea, #text input", "blue mug", enter=True)
    both = shop.model.encode_query([{"text": "blue mug", "image": picture(21)}])[0]
    searched(opened, shop.texts(shop.best(both, 8)))
    opened.click("#image [aria-label='Remove Image'], #image [aria-label='Clear'], #image button[title='Remove Image']")
    searched(opened, shop.texts(shop.best(shop.model.encode_query("blue mug"), 8)))


def test_the_reranker_has_its_say_where_it_is_wanted(opened, shop) -> None:
    query = "red shirt word7"
    opened.type("#text textarea, #text input", query, enter=True)
    candidates = shop.best(shop.model.encode_query(query), 20)
    searched(opened, shop.texts(candidates[:8]))
    assert "reranker" not in opened.text("#results") and "rerank" not in opened.text("#status")
    opened.click("#rerank input")
    opened.until("document.querySelector('#results .score').innerText.includes('reranker')")
    pairs = [(query, text) for text in shop.texts(candidates)]
    expected = np.sort(load_text_reranker(shop.folder / "reranker", device="cpu").predict(pairs))[::-1][:8]
    shown = opened.page.run("[...document.querySelectorAll('#results .score b')].map(e => Number(e.innerText))")
    np.testing.assert_allclose(shown, expected, atol=2e-3)
    assert re.search(r"rerank [\d.]+ ms", " ".join(opened.text("#status").split()))
    opened.click("#rerank input")
    searched(opened, shop.texts(candidates[:8]))


def test_what_is_asked_while_a_search_runs_is_found_after_it(opened, shop) -> None:
    for query in ("blue mug", "red shirt", "word9", "colour3 word4"):
        opened.type("#text textarea, #text input", query, enter=True)
    searched(opened, shop.texts(shop.best(shop.model.encode_query("colour3 word4"), 8)))


@pytest.mark.security
def test_a_hostile_upload_is_a_plain_line_and_the_page_goes_on(opened, shop, tmp_path) -> None:
    path = tmp_path / "evil.png"
    path.write_bytes(
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='document.title=1'><image href='http://evil.example/a'/></svg>"
    )
    opened.upload("#image input[type=file]", path)
    opened.until("!!document.querySelector('#status .notice')")
    said = opened.text("#status .notice")
    assert said == "the picture cannot be read: it is no JPEG, PNG, WebP, GIF, BMP or TIFF"
    opened.click("#image [aria-label='Remove Image'], #image [aria-label='Clear'], #image button[title='Remove Image']")
    opened.until("!document.querySelector('#status .notice')")
    big = tmp_path / "big.png"
    big.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 10_500_000)
    opened.upload("#image input[type=file]", big)
    opened.until(
        "[...document.querySelectorAll('.toast-body, [data-testid=toast-body]')].some(e => e.innerText.includes('big.png'))"
    )
    opened.type("#text textarea, #text input", "red shirt word7", enter=True)
    searched(opened, shop.texts(shop.best(shop.model.encode_query("red shirt word7"), 8)))


@pytest.mark.security
def test_hostile_texts_are_texts_and_nobody_else_is_asked(opened, shop, running) -> None:
    opened.type("#text textarea, #text input", HOSTILE, enter=True)
    expected = shop.best(shop.model.encode_query(" ".join(HOSTILE.split())), 8)
    searched(opened, shop.texts(expected))
    opened.click(
        "#results [data-act=like]", shop.texts(expected).index(HOSTILE) if HOSTILE in shop.texts(expected) else 0
    )
    opened.until("!!document.querySelector('#status .chip')")
    opened.type("#text textarea, #text input", "x", enter=True)
    opened.page.run("document.querySelectorAll('#results details').forEach(one => { one.open = true; })")
    state = opened.page.run(
        "[document.title, document.querySelectorAll('#results script, #results a, #results img:not([src^=\"data:image/jpeg\"])')"
        ".length, document.querySelectorAll('#filters script, #filters img').length]"
    )
    assert state == ["Browse", 0, 0]
    assert opened.elsewhere(running.address) == []
    assert [said for said in opened.errors() if "413" not in said and "/upload" not in said] == []


@pytest.mark.security
def test_no_file_is_served_and_no_function_is_called_from_outside(running) -> None:
    def status(path: str, data: bytes | None = None, **headers: str) -> int:
        request = urllib.request.Request(running.address + path, data=data, headers=headers)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status("") == 200
    for path in (
        "gradio_api/file=/etc/passwd", "gradio_api/file=/etc/hostname", "gradio_api/file=items.parquet",
        "gradio_api/file=http://127.0.0.1:1/", "file=/etc/passwd", "gradio_api/info", "gradio_api/proxy=http://127.0.0.1/",
        "static/..%2f..%2fetc/passwd", "assets/%2e%2e/%2e%2e/config",
    ):  # fmt: skip
        assert status(path) in (403, 404), path
    assert status("gradio_api/run/asked", b"{}", **{"Content-Type": "application/json"}) == 404
    assert status("", Host="evil.example") == 403
    assert status("gradio_api/queue/join", b"{}", Origin="http://evil.example") == 403
    event = {
        "data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}],
        "fn_index": 0,
        "session_hash": "a",
    }
    assert status("gradio_api/queue/join", json.dumps(event).encode(), **{"Content-Type": "application/json"}) == 404


def test_it_is_readable_on_a_phone_in_the_dark(running, tmp_path) -> None:
    with HeadlessPage(running.address, width=390, height=844, dark=True, mobile=True) as page:
        hand = Hand(page)
        hand.until("document.querySelectorAll('#results .card').length === 8")
        assert page.run("document.documentElement.scrollWidth") <= 390
        ink, paper = page.run(
            "[getComputedStyle(document.querySelector('#about h1')).color, getComputedStyle(document.body).backgroundColor]"
        )
        light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
        assert light[0] > 600 > 120 > light[1]
        hand.type("#text textarea, #text input", "red shirt word7", enter=True)
        hand.until("!!document.querySelector('#compared table') && !!document.querySelector('#results .score')")
        assert page.run("document.documentElement.scrollWidth") <= 390
        assert (
            page.run("document.querySelector('#compared td').getBoundingClientRect().height") < 60
        )  # words stay whole
        assert hand.errors() == [] and hand.elsewhere(running.address) == []
        image = load_image(page.screenshot(tmp_path / "phone.png").read_bytes())
        assert image.width == 780
