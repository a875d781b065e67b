"""The words of attributes and the vectors of candidates → how likely each candidate has each attribute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.search.queries import Query, encode_queries

_TIED = 10.0  # how strongly the offsets of a slot's values are drawn to their mean, in answers


def zero_shot_attributes(
    model: SentenceTransformer,
    embeddings: Embeddings,
    slots: Sequence[Slot],
    *,
    templates: Mapping[str, str | Sequence[str]] | None = None,
    known: AttributeTable | None = None,
    temperature: float = 0.02,
    rates: Mapping[str, float] | None = None,
) -> AttributeTable:
    """Tell attributes from pictures: by the cosine of an attribute's words with a candidate's vector.

        P(a | x) = sigmoid((cos(a, x) − b_a) / T)

    With candidates whose attributes are known, T of each slot and b_a of each value are those under which these are most
    likely (Platt 1999; b is drawn to its slot's mean); of values that exclude each other it is the softmax, with "none of
    them" beside them. Without, T is as given and b_a such that the mean over all candidates is the value's rate;
    probabilities that exclude each other are divided by their sum where it exceeds 1.

    Args:
        model: encodes the words, into the space of `embeddings`.
        embeddings: of the candidates, such as of their images.
        slots: what to tell.
        templates: by slot, how a value is put into words, with {value}, or several, whose vectors are averaged; "" for all
            other slots. None: the value's own name.
        known: the true attributes of some candidates, which calibrate. They must not be those of the targets that figures
            are measured on.
        temperature: T, where nothing is known.
        rates: by attribute, such as "colour=red", its share of all candidates, where nothing is known; else 1 / values for
            exclusive slots and .1 for others.

    Returns:
        The table of all candidates. Where a slot is unknown to `known`, it is as without it.

    Raises:
        DataError: candidates of `known` without vectors.
        ValueError: a template without {value}, a temperature that is not above 0, or a rate that is not between 0 and 1.

    Example:
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> model = build_dual_encoder(["red mug"], text_hidden_size=16, text_layers=1, image_size=32,
        ...     image_embedding_size=8, image_hidden_sizes=[8], image_depths=[1], projection_dim=8)
        >>> vectors = Embeddings(["a", "b"], model.encode(["red", "mug"], normalize_embeddings=True))
        >>> table = zero_shot_attributes(model, vectors, [Slot("what", ("red", "mug"))])
        >>> table.probabilities(table.rows(["a"])).argmax()
        np.int64(0)
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}; it is above 0")
    vectors = np.asarray(embeddings.vectors[:], dtype=np.float32)
    columns: list[NDArray[np.float32]] = []
    for slot in slots:
        cosines = (vectors @ _words(model, slot, templates or {}).T).astype(np.float64)  # (n, values)
        of_known = _truth(slot, known, embeddings)
        if of_known is not None and slot.exclusive:
            slope, offsets = _calibrated(cosines[of_known[0]], of_known[1], _softmax)
            found = _softmax(slope * cosines + offsets)
        elif of_known is not None:
            slope, offsets = _calibrated(cosines[of_known[0]], of_known[1], _sigmoid)
            found = _sigmoid(slope * cosines + offsets)
        else:
            slope = 1 / temperature
            default = 1 / (len(slot.values) + 1) if slot.exclusive else 0.1
            wanted = [float((rates or {}).get(attribute, default)) for attribute in slot.attributes]
            offsets = np.array([_offset(cosines[:, at] * slope, rate) for at, rate in enumerate(wanted)])
            found = _sigmoid(slope * cosines + offsets)
            if slot.exclusive:
                found /= np.maximum(found.sum(axis=1, keepdims=True), 1)
        columns.append(found.astype(np.float32))
    return AttributeTable(embeddings.ids, slots, columns)


def _words(model: SentenceTransformer, slot: Slot, templates: Mapping[str, str | Sequence[str]]) -> NDArray[np.float32]:
    """(values, dim): the mean of each value's prompts, brought to length 1."""
    given = templates.get(slot.name, templates.get("", "{value}"))
    each = [given] if isinstance(given, str) else list(given)
    for template in each:
        if "{value}" not in template:
            raise ValueError(f"the template {template!r} of {slot.name!r} does not say where {{value}} goes")
    prompts = [template.replace("{value}", value) for value in slot.values for template in each]
    encoded = encode_queries(model, [Query(prompt) for prompt in prompts])
    mean = encoded.reshape(len(slot.values), len(each), -1).mean(axis=1)
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


def _truth(
    slot: Slot, known: AttributeTable | None, embeddings: Embeddings
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Rows of the embeddings and the (rows, values) truth about them; None where the slot is not known of any."""
    if known is None or known.slot(slot.name) is None:
        return None
    places = [known.place(attribute) for attribute in slot.attributes]
    held = known.probabilities(np.arange(len(known))).astype(np.float64)
    truth = np.stack([held[:, at] if at is not None else np.zeros(len(known)) for at in places], axis=1)
    told = np.flatnonzero(~np.isnan(truth).any(axis=1))
    if not len(told):
        return None
    return embeddings.rows([known.ids[row] for row in told.tolist()]), truth[told]


def _calibrated(
    cosines: NDArray[np.float64],
    truth: NDArray[np.float64],
    link: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> tuple[float, NDArray[np.float64]]:
    """The slope of a slot, at least 0, and the offset of each of its values, by penalised maximum likelihood."""
    from scipy.optimize import minimize

    centre = cosines.mean()

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope, offsets = parameters[0], parameters[1:]
        logits = slope * (cosines - centre) + offsets
        error = link(logits) - truth  # the gradient of the loss by the logits, of the sigmoid and of the softmax
        away = offsets - offsets.mean()
        if link is _softmax:
            fit = np.logaddexp.reduce(np.pad(logits, ((0, 0), (0, 1))), axis=1).sum() - (truth * logits).sum()
        else:
            fit = (np.logaddexp(0, logits) - truth * logits).sum()
        value = float(fit + _TIED * (away**2).sum() / 2)
        gradient = np.concatenate([[(error * (cosines - centre)).sum()], error.sum(axis=0) + _TIED * away])
        return value, gradient

    rate = np.clip(truth.mean(axis=0), 1e-3, 1 - 1e-3)
    start = np.concatenate([[10.0], np.log(rate / (1 - rate))])
    bounds = [(0.0, None)] + [(None, None)] * truth.shape[1]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500}).x
    if not np.isfinite(found).all():
        raise DataError("the attributes that are known cannot be learnt from; give more of them", file="attributes")
    return float(found[0]), found[1:] - found[0] * centre


def _offset(logits: NDArray[np.float64], rate: float) -> float:
    """What to add to logits so that their mean probability is the rate."""
    from scipy.optimize import brentq

    if not 0 < rate < 1:
        raise ValueError(f"a rate of {rate}; it lies between 0 and 1")
    reach = float(np.abs(logits).max()) + 30
    return float(brentq(lambda offset: _sigmoid(logits + offset).mean() - rate, -reach, reach))


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import expit

    return expit(logits)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis and "none of them", whose logit is 0."""
    from scipy.special import softmax

    return softmax(np.pad(logits, ((0, 0), (0, 1))), axis=1)[:, :-1]
