"""Likelihoods of answers in words, by hand, and their temperatures, from answers that were drawn with known ones."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.embeddings import Embeddings
from mmembed.interactive.belief import posterior
from mmembed.interactive.questions import Answer, Question
from mmembed.interactive.text_likelihood import TextLikelihood

COLOUR = Question("colour?", ("red", "blue", "something else"))
POLAR = Question("Is it red?", ("yes", "no"))


def vector(text: str) -> np.ndarray:
    found = np.random.default_rng(zlib.crc32(text.encode())).normal(size=8)
    return (found / np.linalg.norm(found)).astype(np.float32)


class Words:
    """Gives each text a vector of its own."""

    def __init__(self) -> None:
        self.read: list[str] = []


@pytest.fixture
def likelihood(monkeypatch: pytest.MonkeyPatch) -> TextLikelihood:
    model = Words()

    def encode(given: Any, queries: list[Any], prompt: str | None = None) -> np.ndarray:
        given.read += [query.text for query in queries]
        return np.stack([vector((prompt or "") + query.text) for query in queries])

    monkeypatch.setattr("mmembed.search.queries.encode_queries", encode)
    ids = [f"{number}" for number in range(300)]
    rows = np.random.default_rng(0).normal(size=(300, 8))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return TextLikelihood(model, Embeddings(ids, vectors))  # type: ignore[arg-type]


def test_each_kind_by_hand(likelihood: TextLikelihood) -> None:
    ids = ["5", "7", "100"]
    rows = likelihood.embeddings.vectors[[5, 7, 100]]
    options = np.exp(np.stack([rows @ vector(f"colour? {option}") for option in COLOUR.options]) / 0.05)
    said = [likelihood.likelihood(COLOUR, Answer(option, "value", "x"), ids) for option in COLOUR.options]
    assert np.allclose(said, options / options.sum(axis=0), atol=1e-4) and np.allclose(sum(said), 1)  # type: ignore[arg-type]
    score = rows @ vector("Is it red? yes") - (likelihood.embeddings.vectors @ vector("Is it red? yes")).mean()
    yes = likelihood.likelihood(POLAR, Answer("yes", "yes", "x"), ids)
    assert np.allclose(yes, 1 / (1 + np.exp(-score / 0.05)), atol=1e-4)
    assert np.allclose(yes + likelihood.likelihood(POLAR, Answer("no, blue", "no", "x"), ids), 1)
    assert "Is it red? no" not in likelihood.model.read  # type: ignore[attr-defined]
    free = likelihood.likelihood(Question("what else?"), Answer("a dog", "value", "x"), ids)
    expected = np.exp(rows @ vector("what else? a dog") / 0.05)
    assert np.allclose(
        posterior([0.5, 0.25, 0.25], [free]), expected * [2, 1, 1] / (expected * [2, 1, 1]).sum(), atol=1e-6
    )
    assert free.max() == 1 and np.isfinite(free).all() and (free > 0).all()


@pytest.mark.parametrize(
    "answer", [Answer("", "unknown", "x"), Answer("no idea", "unknown", "x"), Answer("  ", "value", "x")]
)
def test_an_answer_without_words_says_nothing(likelihood: TextLikelihood, answer: Answer) -> None:
    assert likelihood.likelihood(COLOUR, answer, ["1", "2"]).tolist() == [1.0, 1.0]
    assert likelihood.likelihood(COLOUR, Answer("red", "value", "x"), []).shape == (0,)
    assert not likelihood.model.read or answer.label != "unknown"  # type: ignore[attr-defined]


def test_temperatures_of_drawn_answers_are_found_again(likelihood: TextLikelihood) -> None:
    """Answers drawn with known temperatures: maximum likelihood finds them within its own uncertainty."""
    draw = np.random.default_rng(1)
    told: list[tuple[Question, Answer, str]] = []
    questions = [Question(f"q{number}?", ("a", "b", "c")) for number in range(40)]
    for question in questions:
        scores = np.stack([likelihood.embeddings.vectors @ vector(f"{question.text} {option}") for option in "abc"])
        chance = np.exp(scores / 0.3) / np.exp(scores / 0.3).sum(axis=0)
        for row in range(0, 300, 6):
            option = "abc"[
                draw.choice(3, p=chance[:, row].astype(np.float64) / chance[:, row].astype(np.float64).sum())
            ]
            told.append((question, Answer(option, "value", "x"), str(row)))
    for number in range(40):
        question = Question(f"p{number}?", ("yes", "no"))
        scores = likelihood.embeddings.vectors @ vector(f"{question.text} yes")
        yes = 1 / (1 + np.exp(-((scores - scores.mean()) / 0.2 - 1.5)))
        for row in range(0, 300, 6):
            label: Any = "yes" if draw.random() < yes[row] else "no"
            told.append((question, Answer(label, label, "x"), str(row)))
    for number in range(400):
        chance = np.exp(likelihood.embeddings.vectors @ vector(f"f{number}? words") / 0.15).astype(np.float64)
        target = draw.choice(300, p=chance / chance.sum())
        told.append((Question(f"f{number}?"), Answer("words", "value", "x"), str(target)))
    fitted = likelihood.fit(told)
    assert abs(fitted.option_temperature / 0.3 - 1) < 0.15 and abs(fitted.polar_temperature / 0.2 - 1) < 0.15
    assert abs(fitted.polar_bias + 1.5) < 0.2 and abs(fitted.temperature / 0.15 - 1) < 0.15
    assert likelihood.temperature == 0.05  # the old one is left as it was
    partly = likelihood.fit(told[:100])
    assert partly.temperature == 0.05 and partly.option_temperature != 0.05


def test_what_cannot_be_learnt_from(likelihood: TextLikelihood) -> None:
    with pytest.raises(ValueError, match="no answer in words"):
        likelihood.fit([(POLAR, Answer("", "unknown", "x"), "1")])
    with pytest.raises(ValueError, match="2 answers are all yes"):
        likelihood.fit([(POLAR, Answer("yes", "yes", "x"), "1")] * 2)
    for name in ("temperature", "option_temperature", "polar_temperature"):
        for value in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"^{name}="):
                TextLikelihood(likelihood.model, likelihood.embeddings, **{name: value})


@pytest.mark.security
def test_an_answer_that_names_an_image_is_a_text(tmp_path: Path) -> None:
    from mmembed.models.dual_encoder.building import build_dual_encoder

    model = build_dual_encoder(["red mug"], text_hidden_size=16, text_layers=1, image_size=32, image_embedding_size=8,
                               image_hidden_sizes=[8], image_depths=[1], projection_dim=8)  # fmt: skip
    likelihood = TextLikelihood(model, Embeddings(["a", "b"], model.encode(["red", "mug"], normalize_embeddings=True)))
    likelihood.similarities(["warm"], ["a"])
    opened: list[str] = []
    watching = [True]

    def watch(event: str, given: tuple) -> None:
        if watching and (event == "open" or event.startswith("socket.")):
            opened.append(f"{event} {given[0] if event == 'open' else ''}")

    sys.addaudithook(watch)
    try:
        for text in (str(tmp_path / "secret.png"), "https://127.0.0.1:9/a.png", "data:image/png;base64,AAAA"):
            likelihood.likelihood(Question(text), Answer(text, "value", "x"), ["a", "b"])
            likelihood.similarities([text], ["a"])
    finally:
        watching.clear()
    assert not [event for event in opened if "secret" in event or "socket" in event]
