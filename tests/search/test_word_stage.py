"""Words of one text, of several, and of first results."""

from __future__ import annotations

import pytest

pytest.importorskip("bm25s")

from mmembed.search.fusion import reciprocal_rank_fusion
from mmembed.search.lexical import LexicalIndex
from mmembed.search.query_expansion import TermExpansion
from mmembed.search.word_stage import search_words

IDS = ["a", "b", "c", "d"]
TEXTS = ["red skirt pleated", "red hat", "blue hat pleated", "green mug"]
INDEX = LexicalIndex.build(IDS, TEXTS)


def test_one_text_is_searched_as_it_is() -> None:
    assert search_words(INDEX, [["red hat"], ["mug"], []], 3) == [*INDEX.search(["red hat", "mug"], 3), {}]
    assert search_words(INDEX, [], 3) == []


def test_several_texts() -> None:
    texts = ["red hat", "pleated", "mug"]
    mean = (2 * INDEX.scores(texts[0]) + INDEX.scores(texts[1]) + INDEX.scores(texts[2])) / 4
    assert search_words(INDEX, [texts], 9)[0] == pytest.approx(dict(zip(IDS, mean.tolist())), rel=1e-5)
    alike = (INDEX.scores(texts[0]) + INDEX.scores(texts[1]) + INDEX.scores(texts[2])) / 3
    assert search_words(INDEX, [texts], 9, query_first=False)[0] == pytest.approx(
        dict(zip(IDS, alike.tolist())), rel=1e-5
    )
    fused = reciprocal_rank_fusion(INDEX.search(texts, 9))
    assert search_words(INDEX, [texts], 9, combine="rrf")[0] == fused
    two = reciprocal_rank_fusion(INDEX.search(texts, 2))
    assert len(two) > 2 and search_words(INDEX, [texts], 2, combine="rrf")[0] == dict(list(two.items())[:2])
    assert set(search_words(INDEX, [texts, ["red"]], 9, allowed=["a", "d"])[0]) == {"a", "d"}


def test_expansion_reads_first_results_or_given_ones() -> None:
    read: list[list[str]] = []

    def documents(ids):
        read.append(list(ids))
        return [TEXTS[IDS.index(id)] for id in ids]

    expansion = TermExpansion(documents=1, terms=2)
    options = {"expansion": expansion, "documents": documents}
    found = search_words(INDEX, [["skirt"], ["unknown"], []], 9, **options)
    assert read == [["a"]] and found[1:] == [{}, {}]
    weights = expansion.expand(INDEX, "skirt", [TEXTS[0]], [1.0])
    assert found[0] == INDEX.search([weights], 9)[0] and len(found[0]) == 3 - ("pleated" not in weights)
    search_words(INDEX, [["skirt"]], 9, positives=[["c", "d"]], **options)
    assert read[1:] == [["c", "d"]]
