"""A dialogue is drawn without markup from anybody, and its curve goes where the ranks go."""

from __future__ import annotations

import re

import numpy as np
import pytest
from datasets import Dataset

from mmembed.apps.dialogue.play import Play
from mmembed.apps.dialogue.views import history_view, question_view, rank_plot, ranking_view, target_view
from mmembed.apps.item_cards import ItemCards
from mmembed.interactive.attribute_questioner import AttributeQuestioner
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.interactive.rankers import TextRanker
from mmembed.interactive.session import InteractiveSession
from mmembed.search.lexical import LexicalIndex
from tests.apps.test_item_cards import Tags

pytest.importorskip("bm25s")
HOSTILE = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>\u202e ${1+1} {{value}}"


def test_the_curve_rises_as_the_rank_falls() -> None:
    svg = rank_plot([1000.0, 31.5, 1.0])
    points = [float(y) for y in re.findall(r'<circle class="dot" cx="[\d.]+" cy="([\d.]+)"', svg)]
    assert points[0] > points[1] > points[2]  # 1 stands at the top
    assert points[0] - points[1] == pytest.approx((points[0] - points[2]) * np.log10(1000 / 31.5) / 3, abs=0.2)
    assert ">31.5<" in svg and "rank from 1,000 to 1 in 2 answers" in svg


@pytest.mark.security
def test_nothing_that_is_shown_is_markup() -> None:
    values = (HOSTILE, "blue")
    items = Dataset.from_dict({"id": [HOSTILE, "b"], "text": [f"mug {HOSTILE}", "mug"], "colour": list(values)})
    index = LexicalIndex.build(items["id"][:], ["mug", "mug"])
    table = AttributeTable(index.ids, [Slot("colour", values)], [np.array([0, 1])])
    session = InteractiveSession(TextRanker(index), AttributeQuestioner(table))
    play = Play(session, f"mug {HOSTILE}", HOSTILE, HOSTILE)
    cards = ItemCards(items)
    item = cards.shown([HOSTILE])[0]
    drawn = [
        target_view(item, playing=True),
        question_view(play, HOSTILE, item, HOSTILE),
        ranking_view(play.top(2), cards, play),
    ]
    play.say(HOSTILE)
    drawn += [
        history_view(play),
        question_view(play, HOSTILE, item),
        target_view(item, playing=False),
        target_view(None, playing=False),
    ]
    read = Tags()
    read.feed("".join(drawn))
    assert play.outcome == "first" and not read.tags & {"script", "img", "a", "iframe", "object"}
    assert not {name for name in read.attributes if name.startswith("on")} and "\u202e" not in "".join(drawn)
    assert read.attributes <= {
        "class", "dir", "title", "type", "style", "role", "aria-label", "data-act", "data-place", "viewbox", "points", "cx", "cy", "r",
        "x", "y", "x1", "x2", "y1", "y2", "text-anchor",
    }  # fmt: skip
