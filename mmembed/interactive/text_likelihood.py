"""What an answer in words says of each candidate, by an embedding model that knows nothing of attributes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sentence_transformers import SentenceTransformer

from mmembed.embeddings import Embeddings, read_rows
from mmembed.interactive.answer_reading import read_answer
from mmembed.interactive.belief import fit_temperature
from mmembed.interactive.query_state import turn_text
from mmembed.interactive.questions import Answer, Question, Turn

_ROWS_A_BLOCK = 2**14
_TEXTS_KEPT = 20_000
_LOW, _HIGH = 1e-3, 10.0  # of temperatures, in units of cosines


class TextLikelihood:
    """P(answer | candidate) from the cosine s(text, x) of "question answer" with a candidate's vector.

    Of a question with options that exclude each other, the softmax over the options of s / option_temperature. Of a question
    for yes or no, P(yes) = sigmoid((s("question yes", x) − its mean over all candidates) / polar_temperature + polar_bias) and
    P(no) = 1 − P(yes): a "no" is never put into words, as encoders read it as if it were a yes. Of an answer in free words,
    exp(s / temperature) up to a factor that is the same for all candidates, so that the belief becomes the softmax.

    The temperatures make the difference between a guess and a certainty; `fit` learns them from answers about known targets.

    Args:
        model: encodes texts into the space of `embeddings`.
        embeddings: of the candidates: of their images, their texts or both.
        temperature: of answers in free words, in units of cosines, above 0.
        option_temperature: of options.
        polar_temperature: of yes and no.
        polar_bias: the log-odds of a yes where a candidate is as near as the mean.
        prompt: put before each text.

    Raises:
        ValueError: a temperature that is not above 0.

    Example:
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> model = build_dual_encoder(["red mug blue"], text_hidden_size=16, text_layers=1, image_size=32,
        ...     image_embedding_size=8, image_hidden_sizes=[8], image_depths=[1], projection_dim=8)
        >>> vectors = Embeddings(["a", "b"], model.encode(["colour? red", "colour? blue"], normalize_embeddings=True))
        >>> weights = TextLikelihood(model, vectors).likelihood(Question("colour?"), Answer("red", "value", "person"), ["a", "b"])
        >>> bool(weights[0] > weights[1])
        True
    """

    def __init__(
        self,
        model: SentenceTransformer,
        embeddings: Embeddings,
        *,
        temperature: float = 0.05,
        option_temperature: float = 0.05,
        polar_temperature: float = 0.05,
        polar_bias: float = 0.0,
        prompt: str | None = None,
    ) -> None:
        for name, value in (
            ("temperature", temperature),
            ("option_temperature", option_temperature),
            ("polar_temperature", polar_temperature),
        ):
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value}; it is above 0")
        self.model, self.embeddings = model, embeddings
        self.temperature, self.option_temperature = temperature, option_temperature
        self.polar_temperature, self.polar_bias = polar_temperature, polar_bias
        self._prompt = prompt
        self._encoded: dict[str, NDArray[np.float32]] = {}
        self._mean = np.zeros(embeddings.vectors.shape[1])
        for start in range(0, len(embeddings), _ROWS_A_BLOCK):
            block = read_rows(embeddings.vectors, start, min(start + _ROWS_A_BLOCK, len(embeddings)))
            self._mean += np.asarray(block, dtype=np.float64).sum(axis=0) / max(len(embeddings), 1)

    def likelihood(self, question: Question, answer: Answer, ids: Sequence[str]) -> NDArray[np.float64]:
        """P(answer | candidate), as of `Likelihood`; ones for "unknown" and for an answer without words."""
        kind, texts, own = _said(question, answer)
        if kind == "nothing" or not len(ids):
            return np.ones(len(ids))
        scores = self.similarities(texts, ids).astype(np.float64)
        if kind == "polar":
            yes = _sigmoid(self._log_odds(texts[0], scores[0]))
            return yes if own == 0 else 1 - yes
        if kind == "options":
            logs = scores / self.option_temperature
            return np.exp(logs[own] - np.logaddexp.reduce(logs, axis=0))
        return np.exp((scores[0] - scores[0].max()) / self.temperature)

    def similarities(self, texts: Sequence[str], ids: Sequence[str]) -> NDArray[np.float32]:
        """The cosines of texts with candidates: float32 (texts, ids)."""
        vectors = np.asarray(self.embeddings.vectors[self.embeddings.rows(ids)], dtype=np.float32)
        return self._encode(texts) @ vectors.T

    def fit(self, told: Iterable[tuple[Question, Answer, str]]) -> TextLikelihood:
        """The same with temperatures under which known answers are likeliest.

        Args:
            told: questions, answers and the ids of the targets they are about. Each kind of answer (free words, options, yes
                and no) is fitted by its own; a kind that is not among them keeps its temperature.

        Returns:
            A new likelihood.

        Raises:
            ValueError: no answer in words, or yes and no of which only one occurs.
        """
        free: list[tuple[NDArray[np.float64], int]] = []
        options: list[tuple[NDArray[np.float64], int]] = []
        polar: list[tuple[float, bool]] = []
        for question, answer, target in told:
            kind, texts, own = _said(question, answer)
            if kind == "free":
                row = int(self.embeddings.rows([target])[0])
                free.append((self.similarities(texts, self.embeddings.ids)[0].astype(np.float64), row))
            elif kind == "options":
                options.append((self.similarities(texts, [target])[:, 0].astype(np.float64), own))
            elif kind == "polar":
                score = float(self.similarities(texts, [target])[0, 0])
                polar.append((score - float(self._encode(texts)[0] @ self._mean), own == 0))
        if not free and not options and not polar:
            raise ValueError("no answer in words to learn from; give questions, answers and the ids of their targets")
        fitted: dict[str, Any] = {
            "temperature": self.temperature,
            "option_temperature": self.option_temperature,
            "polar_temperature": self.polar_temperature,
            "polar_bias": self.polar_bias,
        }
        for name, rows in (("temperature", free), ("option_temperature", options)):
            if rows:
                fitted[name] = fit_temperature(*zip(*rows), low=_LOW, high=_HIGH)
        if polar:
            fitted["polar_temperature"], fitted["polar_bias"] = _fit_polar(*zip(*polar))
        return TextLikelihood(self.model, self.embeddings, prompt=self._prompt, **fitted)

    def _log_odds(self, text: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        mean = float(self._encode([text])[0] @ self._mean)
        return (scores - mean) / self.polar_temperature + self.polar_bias

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        # Spelled out as a query's text, a text is never taken for the address of an image.
        from mmembed.search.queries import Query, encode_queries

        if len(self._encoded) > _TEXTS_KEPT:
            self._encoded.clear()
        new = list(dict.fromkeys(text for text in texts if text not in self._encoded))
        if new:
            vectors = encode_queries(self.model, [Query(text) for text in new], prompt=self._prompt)
            self._encoded.update(zip(new, vectors, strict=True))
        return np.stack([self._encoded[text] for text in texts])


def _said(question: Question, answer: Answer) -> tuple[str, list[str], int]:
    """The kind of an answer, the texts that stand for it and its rivals, and which of them it is."""

    def text(words: str) -> str:
        return turn_text(Turn(question, Answer(words, "value", "")))

    if answer.label == "unknown":
        return "nothing", [], 0
    if answer.label in ("yes", "no"):
        return "polar", [text("yes")], 0 if answer.label == "yes" else 1
    if not answer.text.strip():
        return "nothing", [], 0
    labels = {read_answer(option, question, source="").label for option in question.options}
    if answer.text in question.options and len(question.options) > 1 and labels == {"value"}:
        return "options", [text(option) for option in question.options], question.options.index(answer.text)
    return "free", [text(answer.text)], 0


def _fit_polar(scores: Sequence[float], said_yes: Sequence[bool]) -> tuple[float, float]:
    """The temperature and the bias of a logistic curve, by maximum likelihood with a temperature above 0."""
    from scipy.optimize import minimize

    if len(set(said_yes)) < 2:
        raise ValueError(
            f"{len(said_yes)} answers are all {'yes' if said_yes[0] else 'no'}; both are needed to learn from"
        )
    values, signs = np.asarray(scores), np.where(np.asarray(said_yes), 1.0, -1.0)

    def loss(parameters: ArrayLike) -> float:
        log_temperature, bias = np.asarray(parameters)
        return float(np.logaddexp(0, -signs * (values / np.exp(log_temperature) + bias)).mean())

    base = float(np.mean(said_yes))
    start = np.array([np.log(max(float(values.std()), _LOW)), np.log(base / (1 - base))])
    bounds = [(np.log(_LOW), np.log(_HIGH)), (-20.0, 20.0)]
    found = minimize(loss, start, bounds=bounds, method="L-BFGS-B").x
    return float(np.exp(found[0])), float(found[1])


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import expit

    return np.clip(expit(values), 1e-6, 1 - 1e-6)  # nothing is taken for impossible
