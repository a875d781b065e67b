"""Words → ranked ids: BM25."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from tqdm.auto import tqdm

from mmembed.data.schema import did_you_mean
from mmembed.search.lexical_tokens import StemmerLanguage, Tokeniser, check_tokeniser, tokenise
from mmembed.whole_files import write_whole

Method = Literal["lucene", "robertson", "atire"]

_MANIFEST = "lexical.json"
_ARRAYS = {"data": "data.csc.index.npy", "indices": "indices.csc.index.npy", "indptr": "indptr.csc.index.npy"}
_FILES = (*_ARRAYS.values(), "vocab.index.json")


class LexicalIndex:
    """Documents by the words that they share with a query, scored with BM25 (Robertson and Zaragoza 2009) by bm25s.

    score(q, d) = Σ over tokens t of q:  idf(t) · f / (f + k1 · (1 − b + b · |d| / mean |d|))

    where f is how often t stands in d, and idf(t) = ln(1 + (N − n + .5) / (n + .5)) with n of N documents holding t
    (method "lucene"; Kamphuis et al. 2020 compare the variants). Scores do not depend on the process, on the order of the
    other queries or on the order of the documents; documents of one score stand in the order of their ids.

    Made by `LexicalIndex.build` or `LexicalIndex.load`. Needs the extra `mmembed[lexical]`.

    Example:
        >>> index = LexicalIndex.build(["a", "b", "c"], ["a red skirt", "a red hat", "blue shoes"])
        >>> [list(hits) for hits in index.search(["Red hat", "boots"], k=2)]
        [['b', 'a'], []]
    """

    def __init__(self, ids: Sequence[str], retriever: Any, settings: dict[str, Any]) -> None:
        self.ids = tuple(ids)
        self.settings = settings
        self._retriever = retriever
        self._place = np.empty(len(self.ids), dtype=np.int64)  # of each document in the order of ids
        self._rows = {id: row for row, id in enumerate(self.ids)}
        self._place[np.array(sorted(range(len(self.ids)), key=self.ids.__getitem__))] = np.arange(len(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def build(
        cls,
        ids: Sequence[str],
        texts: Sequence[str],
        *,
        tokeniser: Tokeniser = "word",
        stemmer: StemmerLanguage | None = None,
        fold_width: bool = False,
        method: Method = "lucene",
        k1: float = 1.2,
        b: float = 0.75,
        show_progress_bar: bool = False,
    ) -> LexicalIndex:
        """Count the tokens of every document.

        Args:
            ids: (n,) ids, each once.
            texts: (n,) texts.
            tokeniser: "word", "bigram" or "uni_bigram", see `tokenise`.
            stemmer: "english", "russian" or None.
            fold_width: make one of full-width and half-width forms.
            method: "lucene", "robertson" (a token of more than half of the documents counts nothing) or "atire".
            k1: how slowly further occurrences of a token stop counting, at least 0.
            b: how much a long document is discounted, from 0 (not) to 1.
            show_progress_bar: show one.

        Returns:
            The index.

        Raises:
            ValueError: no documents, no token in any, other than one text an id, an id twice, an option out of range.
            ImportError: bm25s is not installed.
        """
        check_tokeniser(tokeniser)
        if method not in get_args(Method):
            known = get_args(Method)
            raise ValueError(f"method {method!r} is not known{did_you_mean(str(method), known)} Known: {known}.")
        if not (np.isfinite(k1) and k1 >= 0 and 0 <= b <= 1):
            raise ValueError(f"k1={k1}, b={b}; k1 is at least 0 and b lies from 0 to 1")
        if len(ids) != len(texts) or len(set(ids)) < len(ids):
            raise ValueError(f"{len(ids)} ids ({len(set(ids))} different) for {len(texts)} texts; give one text an id")
        settings = dict(tokeniser=tokeniser, stemmer=stemmer, fold_width=fold_width, method=method, k1=k1, b=b)
        vocabulary: dict[str, int] = {}
        rows = []
        for text in tqdm(texts, desc="tokenise", unit="text", disable=not show_progress_bar):
            tokens = tokenise(text, tokeniser, stemmer=stemmer, fold_width=fold_width)
            rows.append([vocabulary.setdefault(token, len(vocabulary)) for token in tokens])
        if not vocabulary:
            raise ValueError(f"{len(texts)} documents and not one token in them; give texts with words")
        retriever = _retriever(method, k1, b)
        retriever.index((rows, vocabulary), create_empty_token=False, show_progress=show_progress_bar)
        return cls(ids, retriever, settings)

    def scores(self, query: str) -> np.ndarray:
        """The score of every document.

        Args:
            query: a text.

        Returns:
            float32 (n,), in the order of `ids`; 0 where nothing is shared.
        """
        return self._retriever.get_scores_from_ids(self._retriever.get_tokens_ids(self.tokens(query)))

    def weighted_scores(self, tokens: Mapping[str, float]) -> np.ndarray:
        """The score of every document for tokens that count more or less than once.

        Args:
            tokens: weights by token, as `tokenise` cuts them; one that no document has counts nothing.

        Returns:
            float64 (n,), in the order of `ids`: Σ over tokens of weight · the token's score.
        """
        scores = np.zeros(len(self.ids))
        stored, vocabulary = self._retriever.scores, self._retriever.vocab_dict
        for token, weight in tokens.items():
            if token in vocabulary:
                column = slice(*stored["indptr"][vocabulary[token] : vocabulary[token] + 2].tolist())
                scores[stored["indices"][column]] += weight * stored["data"][column].astype(np.float64)
        return scores

    def tokens(self, text: str) -> list[str]:
        """A text's tokens, cut as this index cuts its documents and queries."""
        return tokenise(text, **{name: self.settings[name] for name in ("tokeniser", "stemmer", "fold_width")})

    def search(
        self, queries: Sequence[str | Mapping[str, float]], k: int = 10, *, allowed: Collection[str] | None = None
    ) -> list[dict[str, float]]:
        """The best documents of each query.

        Args:
            queries: texts, or weights by token as `weighted_scores` takes them.
            k: how many documents a query.
            allowed: ids of the documents that may be found; None for all. Ids that are not here find nothing.

        Returns:
            For each query its documents' scores by id, best first; fewer than k where fewer share a token with it.

        Raises:
            ValueError: k below 1, or one text where a list belongs.
        """
        if k < 1 or isinstance(queries, str):
            raise ValueError(f"k={k}, queries of {type(queries).__name__}; give a list of texts and k of at least 1")
        barred = None
        if allowed is not None:
            barred = np.ones(len(self.ids), dtype=bool)
            barred[[self._rows[id] for id in allowed if id in self._rows]] = False
        found = []
        for query in queries:
            scores = self.scores(query) if isinstance(query, str) else self.weighted_scores(query)
            if barred is not None:
                scores = np.where(barred, 0, scores)
            found.append({self.ids[row]: float(scores[row]) for row in best_rows(scores, k, self._place)})
        return found

    def save(self, folder: str | os.PathLike) -> None:
        """Write the index as a folder of JSON and plain arrays, whole or not at all.

        Args:
            folder: where; what stands there is replaced.
        """

        def write(new: str) -> None:
            self._retriever.save(new, show_progress=False)
            sums = {name: _sha256(os.path.join(new, name)) for name in _FILES}
            manifest = {"ids": self.ids, "settings": self.settings, "sha256": sums}
            with open(os.path.join(new, _MANIFEST), "w", encoding="utf-8") as file:
                json.dump(manifest, file, ensure_ascii=False)

        write_whole(folder, write)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> LexicalIndex:
        """Read what `save` wrote; nothing in it is executed, whoever made it.

        Args:
            folder: the folder.

        Returns:
            The index.

        Raises:
            ValueError: not such a folder, or its files are damaged or do not fit each other.
            ImportError: bm25s is not installed.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            ids, settings, sums = manifest["ids"], manifest["settings"], manifest["sha256"]
            for name in _FILES:
                if _sha256(folder / name) != sums[name]:
                    raise ValueError(f"{name} is not the file that was written")
            check_tokeniser(settings["tokeniser"])
            retriever = _retriever(settings["method"], settings["k1"], settings["b"])
            retriever.vocab_dict = json.loads((folder / "vocab.index.json").read_text(encoding="utf-8"))
            arrays = {name: np.load(folder / file, allow_pickle=False) for name, file in _ARRAYS.items()}
            retriever.scores = {**arrays, "num_docs": len(ids)}
            retriever.nonoccurrence_array = None
            for problem in _problems(ids, retriever.vocab_dict, arrays):
                raise ValueError(problem)
            return cls(ids, retriever, settings)
        except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{folder} is no whole lexical index: {what}; build it again") from None


def best_rows(scores: np.ndarray, k: int, place: np.ndarray, *, above: float = 0.0) -> np.ndarray:
    """The rows of the k highest scores, best first.

    Args:
        scores: (n,), higher is better.
        k: how many at most.
        place: int64 (n,), the order of rows whose scores are equal.
        above: a score that is no hit, nor is any below it.

    Returns:
        int64 (at most k,).

    Example:
        >>> best_rows(np.array([0.5, 0.0, 0.7, 0.5]), 2, np.array([3, 2, 1, 0])).tolist()
        [2, 3]
    """
    rows = np.flatnonzero(scores > above)
    if len(rows) > k:
        threshold = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
        rows = rows[scores[rows] >= threshold]
    return rows[np.lexsort((place[rows], -scores[rows]))][:k]


def _retriever(method: str, k1: float, b: float) -> Any:
    first = "bm25s" not in sys.modules
    try:
        import bm25s
    except ImportError:
        raise ImportError('lexical search needs bm25s: pip install "mmembed[lexical]"') from None
    if first:  # it gives its own logger DEBUG, whatever a program wants to see
        logging.getLogger("bm25s").setLevel(logging.NOTSET)
    return bm25s.BM25(method=method, k1=k1, b=b, backend="numpy")


def _problems(ids: Any, vocabulary: Any, arrays: dict[str, np.ndarray]) -> Iterator[str]:
    """What would make a search read beyond its arrays, or name documents wrongly."""
    if not (isinstance(ids, list) and ids and all(isinstance(id, str) for id in ids) and len(set(ids)) == len(ids)):
        yield "its ids are no list of different strings"
    data, indices, indptr = arrays["data"], arrays["indices"], arrays["indptr"]
    if [array.ndim for array in arrays.values()] != [1, 1, 1] or data.dtype.kind != "f" or not np.isfinite(data).all():
        yield "its scores are no vectors of finite numbers"
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu" or len(data) != len(indices):
        yield "its arrays do not fit each other"
    if len(indices) and not 0 <= indices.min() <= indices.max() < len(ids):
        yield f"it names documents beyond its {len(ids)} ids"
    if not len(indptr) or indptr[0] != 0 or indptr[-1] != len(data) or np.any(np.diff(indptr.astype(np.int64)) < 0):
        yield "its columns do not cover its scores"
    if not isinstance(vocabulary, dict) or sorted(vocabulary.values()) != list(range(len(indptr) - 1)):
        yield "its vocabulary does not fit its columns"


def _sha256(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
