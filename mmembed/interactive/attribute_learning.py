"""What is known of candidates, and answers about some of them → how likely a yes is about any of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmembed.data.schema import DataError

_PREDICTED_AT_ONCE = 2**22  # logits


def learn_probabilities(
    evidence: ArrayLike,
    rows: ArrayLike,
    answers: ArrayLike,
    *,
    features: ArrayLike | None = None,
    evidence_penalty: float = 3.0,
    feature_penalty: float = 4.0,
    max_steps: int = 60,
) -> NDArray[np.float32]:
    """Learn how answers follow from what is known: for each attribute a logistic regression, tied to those of all.

        logit P(yes about a | x) = b_a + Σ_c [evidence of a in x ≥ c] (α_c + δ_{c,a}) + w_a · f(x)

    α is shared by all attributes; δ and w are drawn to 0, as if by ½ · penalty of the squared norm in nats. An
    attribute with few answers therefore behaves as attributes do. Convex; the same input gives the same numbers.

    Args:
        evidence: (n, attributes), how often each attribute was told of each candidate: 0, 1, 2, … (told by how many of its
            captions, say; a fact is 0 or 1).
        rows: int (answered,), the candidates of which there are answers.
        answers: (answered, attributes): 1 yes, 0 no, NaN where nobody answered.
        features: (n, dim) of each candidate, about of length 1, such as its vector; None for none. They tell of what is not
            told: that a picture of a plate and a fork may well show a table.
        evidence_penalty: of δ.
        feature_penalty: of w, with features scaled to a mean squared length of 16.
        max_steps: of the optimiser (L-BFGS).

    Returns:
        float32 (n, attributes), P(yes) for an `AttributeTable`, to be used with `AnswerChannel.of_noise(error=0)`.

    Raises:
        DataError: shapes that do not fit, numbers that are not finite, or no answer.

    Example:
        >>> evidence = np.array([[1, 0], [1, 0], [0, 1], [0, 0]])
        >>> found = learn_probabilities(evidence, [0, 1, 2], [[1, 0], [1, 0], [0, 1]])
        >>> bool((found[0] > 0.5).tolist() == [True, False]), bool(found[3].max() < 0.5)
        (True, True)
    """
    import torch

    told, wanted = np.asarray(evidence), np.asarray(rows, dtype=np.int64)
    said = np.asarray(answers, dtype=np.float32)
    _check(told, wanted, said, evidence_penalty, feature_penalty)
    count, attributes = told.shape
    inputs = np.zeros((count, 0), dtype=np.float32) if features is None else np.asarray(features, dtype=np.float32)
    if inputs.ndim != 2 or len(inputs) != count or not np.isfinite(inputs).all():
        raise DataError(f"features of shape {inputs.shape} for {count} candidates, or not finite", file="features")
    if inputs.size:
        inputs = inputs * (4 / max(float(np.sqrt((inputs**2).sum(axis=1).mean())), 1e-12))
    levels = range(int(told.max(initial=0)))
    given = torch.from_numpy((~np.isnan(said)).astype(np.float32))
    truth = torch.from_numpy(np.nan_to_num(said))
    rate = (truth * given).sum(0) / given.sum(0).clamp(min=1)
    bias = torch.logit(rate.clamp(1e-4, 1 - 1e-4)).requires_grad_()
    shared = torch.zeros(len(levels), 1, requires_grad=True)
    own = torch.zeros(len(levels), attributes, requires_grad=True)
    weights = torch.zeros(inputs.shape[1], attributes, requires_grad=True)

    def logits(some: NDArray[np.int64]) -> Any:
        found = bias + torch.from_numpy(inputs[some]) @ weights
        for level in levels:
            found = found + torch.from_numpy((told[some] > level).astype(np.float32)) * (shared[level] + own[level])
        return found

    optimiser = torch.optim.LBFGS(
        [bias, shared, own, weights], max_iter=max_steps, history_size=6, line_search_fn="strong_wolfe"
    )

    def loss() -> Any:
        optimiser.zero_grad()
        fit = torch.nn.functional.binary_cross_entropy_with_logits(logits(wanted), truth, given, reduction="sum")
        penalty = (evidence_penalty * own.square().sum() + feature_penalty * weights.square().sum()) / 2
        value = (fit + penalty) / len(wanted)
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    found = np.empty((count, attributes), dtype=np.float32)
    at_once = max(1, _PREDICTED_AT_ONCE // attributes)
    with torch.no_grad():
        for start in range(0, count, at_once):
            some = np.arange(start, min(start + at_once, count))
            found[some] = torch.sigmoid(logits(some)).numpy()
    return found


def _check(told: np.ndarray, rows: np.ndarray, said: np.ndarray, *penalties: float) -> None:
    if told.ndim != 2 or said.shape != (len(rows), told.shape[1]) or not told.size:
        raise DataError(f"evidence {told.shape}, answers {said.shape} of {len(rows)} candidates", file="answers")
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(told):
        raise DataError(f"answers about rows {rows.min()} to {rows.max()} of {len(told)} candidates", file="answers")
    if not np.isfinite(told).all() or told.min() < 0 or told.max() > 100:
        raise DataError("evidence counts from 0 to 100", file="evidence")
    known = said[~np.isnan(said)]
    if not len(known) or not np.isin(known, (0, 1)).all():
        raise DataError("answers are 1, 0 or NaN, and there is at least one", file="answers")
    if not all(np.isfinite(penalty) and penalty > 0 for penalty in penalties):
        raise ValueError(f"penalties {penalties}; they are above 0")
