"""Rankers against brute force: vectors in memory and in files, an index, words, and what is not encoded twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmembed.embeddings import Embeddings
from mmembed.interactive.query_state import joined_text, rocchio_turns, slerp, slerp_turns, turn_text
from mmembed.interactive.questions import Answer, AnswerLabel, Question, Turn
from mmembed.interactive.rankers import TextRanker, VectorRanker
from mmembed.models.dual_encoder.building import build_dual_encoder
from mmembed.search.lexical import LexicalIndex

WORDS = "red blue green mug hat shoe big small is it what yes no a the"


@pytest.fixture(scope="module")
def model():
    return build_dual_encoder(
        [WORDS], text_hidden_size=16, text_layers=1, image_size=32, image_embedding_size=8, image_hidden_sizes=[8],
        image_depths=[1], projection_dim=8,
    )  # fmt: skip


@pytest.fixture(scope="module")
def embeddings(model) -> Embeddings:
    texts = [
        f"{size} {colour} {thing}"
        for size in ("big", "small")
        for colour in ("red", "blue", "green")
        for thing in ("mug", "hat")
    ]
    return Embeddings(texts, model.encode(texts, normalize_embeddings=True))


def turn(question: str, answer: str, label: AnswerLabel) -> Turn:
    return Turn(Question(question), Answer(answer, label, "test"))


def test_scores_are_cosines_of_the_text(model, embeddings: Embeddings) -> None:
    turns = [turn("is it red?", "yes", "yes"), turn("is it big?", "no", "no")]
    for text, ranker in (
        ("a mug", VectorRanker(model, embeddings)),
        ("a mug, is it red? yes", VectorRanker(model, embeddings, query_text=joined_text)),
    ):
        vector = model.encode([text], normalize_embeddings=True)[0]
        assert ranker.scores("a mug", turns) == pytest.approx(np.asarray(embeddings.vectors) @ vector, abs=1e-5)


def test_turns_move_the_vector_and_a_no_does_not(model, embeddings: Embeddings) -> None:
    turns = [turn("is it red?", "yes", "yes"), turn("is it big?", "no", "no"), turn("what?", "a hat", "value")]
    query, red, hat = model.encode(["a mug", turn_text(turns[0]), turn_text(turns[2])], normalize_embeddings=True)
    by_slerp = slerp(slerp(query, red, 0.3), hat, 0.3)
    found = VectorRanker(model, embeddings, query_vector=slerp_turns(0.3)).vector("a mug", turns)
    assert found == pytest.approx(by_slerp, abs=1e-5)
    by_rocchio = query + 0.5 * (red + hat) / 2
    found = VectorRanker(model, embeddings, query_vector=rocchio_turns(1, 0.5)).vector("a mug", turns)
    assert found == pytest.approx(by_rocchio / np.linalg.norm(by_rocchio), abs=1e-5)


def test_vectors_in_files_and_an_index_rank_the_same(model, embeddings: Embeddings, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    from mmembed.search.index import Index

    whole = VectorRanker(model, embeddings).scores("blue hat", [])
    embeddings.save(tmp_path / "vectors", shard_rows=5)
    assert np.array_equal(VectorRanker(model, Embeddings.load(tmp_path / "vectors")).scores("blue hat", []), whole)
    flat = faiss.IndexFlatIP(8)
    flat.add(np.asarray(embeddings.vectors))
    for index in (Index.build(embeddings), flat):
        found = VectorRanker(model, embeddings, index=index, k=4).scores("blue hat", [])
        best = np.sort(np.argsort(-whole, kind="stable")[:4])
        assert np.flatnonzero(np.isfinite(found)).tolist() == best.tolist()
        assert found[best] == pytest.approx(whole[best], abs=1e-5)


def test_equal_vectors_tie(model, embeddings: Embeddings) -> None:
    vectors = np.asarray(embeddings.vectors)[np.zeros(1001, dtype=int)]
    ids = [str(row) for row in range(1001)]
    assert len(set(VectorRanker(model, Embeddings(ids, vectors)).scores("red hat", []).tolist())) == 1


@pytest.mark.security
def test_a_query_that_looks_like_a_picture_is_words(model, embeddings: Embeddings, tmp_path: Path) -> None:
    for query in ("https://example.com/a.jpg", str(tmp_path / "a.png"), "data:image/png;base64,AAAA"):
        assert np.isfinite(VectorRanker(model, embeddings).scores(query, [])).all()


def test_texts_are_encoded_once(model, embeddings: Embeddings, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = VectorRanker(model, embeddings)
    ranker.encode_ahead(["red mug", "blue hat", "red mug"])
    first = ranker.scores("red mug", [])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(model, "encode", refuse)
    monkeypatch.setattr(model, "encode_query", refuse)
    assert ranker.scores("red mug", []) is first and ranker.scores("blue hat", []) is not first


def test_words_rank_by_the_text_of_the_dialogue() -> None:
    index = LexicalIndex.build(["a", "b"], ["red mug", "big hat"])
    ranker = TextRanker(index, joined_text)
    assert ranker.scores("mug", []).argmax() == 0
    assert np.array_equal(
        ranker.scores("mug", [turn("a hat?", "big hat", "value")]), index.scores("mug, a hat? big hat")
    )
