"""Cutting texts, naming parts, and finding documents by their best part, against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.embeddings import Embeddings
from mmembed.search.chunks import ChunkedIndex, best_of_chunks, chunk_items, document_of, sentence_spans
from mmembed.search.queries import unit_rows
from mmembed.search.vector_stage import ExactVectors


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("", 10, []),
        (" \n ", 10, []),
        ("one", 10, ["one"]),
        ("One. Two. Three.", 9, ["One. Two.", "Three."]),
        ('He said "no." Then left.', 13, ['He said "no."', "Then left."]),
        ("3.14 is pi. v1.2 too", 11, ["3.14 is pi.", "v1.2 too"]),
        ("半导体产业。日本！美国？", 6, ["半导体产业。", "日本！美国？"]),
        ("a\nb\n\nc", 2, ["a", "b", "c"]),
        ("a\nb\n\nc", 3, ["a\nb", "c"]),
        ("x" * 25, 10, ["x" * 10, "x" * 15]),
        ("Да. Нет… Может быть?", 8, ["Да. Нет…", "Может быть?"]),
    ],
)  # fmt: skip
def test_runs_of_sentences(text: str, size: int, expected: list[str]) -> None:
    found = [text[start:end] for start, end in sentence_spans(text, max_characters=size)]
    assert found == expected


def test_every_character_but_blanks_is_in_one_run() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        text = "".join(generator.choice(list("ab .!?\n。“”"), size=int(generator.integers(0, 80))))
        spans = sentence_spans(text, max_characters=int(generator.integers(1, 20)))
        assert all(a < b for a, b in spans) and all(b <= c for (_, b), (c, _) in zip(spans, spans[1:]))
        inside = "".join("".join(text[a:b].split()) for a, b in spans)
        assert inside == "".join(text.split())


@pytest.mark.security
def test_a_long_text_takes_no_long_time() -> None:
    import time

    began = time.process_time()
    for text in ("." * 300_000, "a" * 300_000, ". " * 150_000, '."' * 150_000, "\n" * 300_000, "!”" * 150_000):
        sentence_spans(text, max_characters=100)
    assert time.process_time() - began < 10


def test_parts_know_their_documents() -> None:
    from datasets import Dataset

    items = Dataset.from_dict({"id": ["a", "b#0"], "text": ["One. Two.", "Three."]})
    chunks = chunk_items(items, lambda text: sentence_spans(text, max_characters=4))
    assert chunks["id"][:] == ["a#0", "a#1", "b#0#0"] and chunks["text"][:] == ["One.", "Two.", "Three."]
    assert [document_of(id) for id in chunks["id"]] == ["a", "a", "b#0"]
    for bad in ("a", "#1", "a#", "a#x", "a#01", "a#-1", ""):
        with pytest.raises(ValueError, match="is no part"):
            document_of(bad)


def test_a_document_has_the_score_of_its_best_part() -> None:
    assert best_of_chunks({}) == {}
    assert list(best_of_chunks({"b#1": 0.5, "a#0": 0.5, "c#0": 0.9, "b#0": 0.2}).items()) == [
        ("c", 0.9),
        ("a", 0.5),
        ("b", 0.5),
    ]


def test_documents_are_found_as_by_brute_force() -> None:
    generator = np.random.default_rng(1)
    # one document has most of the parts, so that the first hundred parts are of few documents
    owners = ["big"] * 300 + [f"d{number}" for number in range(60) for _ in range(3)]
    counts: dict[str, int] = {}
    ids = []
    for owner in owners:
        ids.append(f"{owner}#{counts.setdefault(owner, 0)}")
        counts[owner] += 1
    vectors = unit_rows(generator.normal(size=(len(ids), 6)) + np.array([[3.0] * 6] * 300 + [[0.0] * 6] * 180))
    queries = unit_rows(generator.normal(size=(4, 6)) + 1)
    chunked = ChunkedIndex(ExactVectors(Embeddings(ids, vectors)), ids)
    assert len(chunked) == 61
    for allowed in (None, {"d3", "d7", "nobody"}, {"big"}, set()):
        for k in (1, 7, 100):
            found = chunked.search(queries, k, allowed=allowed)
            for query, ranking in zip(queries, found, strict=True):
                best: dict[str, float] = {}
                for id, score in zip(owners, (vectors @ query).tolist()):
                    if allowed is None or id in allowed:
                        best[id] = max(best.get(id, -9.0), score)
                expected = sorted(best, key=lambda id: -best[id])[:k]
                assert list(ranking) == expected and ranking == pytest.approx(
                    {id: best[id] for id in expected}, abs=1e-6
                )
