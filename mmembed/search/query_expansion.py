"""A query and documents that are known, or taken, to answer it → a better query: a vector, or weighted words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmembed.search.lexical import LexicalIndex
from mmembed.search.queries import unit_rows


@dataclass(frozen=True)
class Rocchio:
    """Moves a query's vector towards documents that answer it and away from those that do not (Rocchio 1971).

    q' = α q + β · mean of the positives − γ · mean of the negatives, normalised again.

    Args:
        documents: how many of a first search's best documents are taken for positives where none are given; 0 for none.
        alpha: α, the query's own weight, above 0.
        beta: β, at least 0.
        gamma: γ, at least 0.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> query, good = np.array([1.0, 0.0]), np.array([[0.0, 1.0]])
        >>> Rocchio(alpha=1, beta=1).expand(query, good).round(4).tolist()
        [0.7070999741554260, 0.7070999741554260]
    """

    documents: int = 5
    alpha: float = 1.0
    beta: float = 0.75
    gamma: float = 0.15

    def __post_init__(self) -> None:
        numbers = (self.alpha, self.beta, self.gamma)
        if self.documents < 0 or not all(map(math.isfinite, numbers)) or min(numbers) < 0 or self.alpha == 0:
            raise ValueError(f"{self}; documents, beta and gamma are at least 0, alpha is above 0, all are finite")

    def expand(
        self, query: np.ndarray, positives: np.ndarray | None = None, negatives: np.ndarray | None = None
    ) -> np.ndarray:
        """The moved query.

        Args:
            query: (dim,) of length 1.
            positives: (p, dim) vectors of documents that answer it; None or p = 0 for none known.
            negatives: (n, dim) vectors of documents that do not.

        Returns:
            float32 (dim,) of length 1; the query itself where everything cancels out.
        """
        moved = self.alpha * np.asarray(query, dtype=np.float64)
        for weight, vectors in ((self.beta, positives), (-self.gamma, negatives)):
            if vectors is not None and len(vectors):
                moved = moved + weight * np.asarray(vectors, dtype=np.float64).mean(axis=0)
        found = unit_rows(moved[None])[0]
        return found if found.any() else np.asarray(query, dtype=np.float32)


@dataclass(frozen=True)
class TermExpansion:
    """Adds to a query's words those of documents that answer it, weighted as a relevance model weights them.

    RM3 (Abdul-Jaleel et al. 2004): of every token t in the documents d with their scores s(d),

        P(t) = Σ over d of  s(d) / Σ s · count of t in d / |d|

    The best `terms` of these, made to sum to 1, are added to the query's own tokens, which sum to 1 as well:
    w · own + (1 − w) · added. BM25's own weights then count on top, as for a query of any words.

    Args:
        documents: how many of a first search's best documents are read where none are given; 0 for none.
        terms: how many tokens are added.
        own_weight: w, from 0 to 1.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> index = LexicalIndex.build(["a", "b", "c"], ["red skirt", "red skirt pleated", "pleated dress"])
        >>> TermExpansion(documents=2, terms=2, own_weight=0.5).expand(index, "red", ["red skirt pleated"])
        {'red': 0.75, 'pleated': 0.25}
    """

    documents: int = 10
    terms: int = 10
    own_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.documents < 0 or self.terms < 1 or not 0 <= self.own_weight <= 1:
            raise ValueError(f"{self}; documents is at least 0, terms at least 1, own_weight lies from 0 to 1")

    def expand(
        self, index: LexicalIndex, query: str, texts: Sequence[str], scores: Sequence[float] | None = None
    ) -> dict[str, float]:
        """The query's tokens and the added ones.

        Args:
            index: the index that is searched; it says how texts are cut.
            query: the query's text.
            texts: documents that answer it.
            scores: s(d) of each, above 0; None for all alike.

        Returns:
            Weights by token, which `LexicalIndex.search` takes; they sum to 1 where both sides have tokens.
        """
        shares = np.ones(len(texts)) if scores is None else np.asarray(scores, dtype=np.float64)
        shares = shares / max(shares.sum(), 1e-12)
        model: Counter[str] = Counter()
        for text, share in zip(texts, shares.tolist(), strict=True):
            tokens = index.tokens(text)
            for token, count in Counter(tokens).items():
                model[token] += share * count / len(tokens)
        best = sorted(model.items(), key=lambda item: (-item[1], item[0]))[: self.terms]
        own = Counter(index.tokens(query))
        total, added = sum(own.values()), sum(weight for _, weight in best)
        weight = self.own_weight if added > 0 else 1.0
        found = {token: weight * count / total for token, count in own.items()}
        for token, share in best:
            found[token] = found.get(token, 0.0) + (1 - weight) * share / added
        return found
