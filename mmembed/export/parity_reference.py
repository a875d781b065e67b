"""What does the model itself give, and what a graph, for the rows on which the two are compared?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from mmembed.export.onnx_sessions import Session
from mmembed.export.parity_gate import Vectors, ndcg_at_10, ndcg_of_scores
from mmembed.export.parity_inputs import ParityInputs

_BATCH = 16
_CANDIDATES = 50  # of a reranker's query
_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")


class Reference:
    """The model's own vectors or scores, computed once for all of its graphs.

    Args:
        model: What is exported, in float32; or an export that is quantised further.
        inputs: The rows.
        verbs: What is compared.
    """

    def __init__(self, model: SentenceTransformer | CrossEncoder, inputs: ParityInputs, verbs: Sequence[str]) -> None:
        self.model = model
        self.inputs = inputs
        self.rows = {verb: _with_longest(model, verb, inputs.check(verb)) for verb in verbs}
        self._vectors: dict[str, Vectors] = {}
        self._judged: tuple[Vectors, Vectors] | None = None
        self._judged_scores: list[Vectors] | None = None

    def vectors(self, verb: str) -> Vectors:
        """float32 (rows, dim), or scores (rows,), of a verb's rows."""
        if verb not in self._vectors:
            self._vectors[verb] = _encoded(self.model, self.rows[verb])
        return self._vectors[verb]

    def ndcg(self, verb: str, encode: Callable[[Sequence[Any]], Vectors]) -> tuple[float, float, int] | None:
        """NDCG@10 of the model and of a graph, and how many queries there were.

        The rows of other verbs keep the model's vectors, so that what is lost is this graph's.

        Args:
            verb: The graph's.
            encode: Rows → their vectors or scores, by the graph.

        Returns:
            None where there are no judgements of this verb's rows.
        """
        judged = self.inputs.judgements
        if judged is None:
            return None
        if verb == "reranker":
            return self._reranker_ndcg(encode)
        sides = [list(judged.queries), list(judged.documents)]
        if not any(_verb_of(row) == verb for side in sides for row in side):
            return None
        if self._judged is None:
            self._judged = (_encoded(self.model, sides[0]), _encoded(self.model, sides[1]))
        theirs = []
        for side, vectors in zip(sides, self._judged):
            mine = vectors.copy()
            numbers = [number for number, row in enumerate(side) if _verb_of(row) == verb]
            if numbers:
                mine[numbers] = _in_batches(encode, [side[number] for number in numbers])
            theirs.append(mine)
        return (
            ndcg_at_10(*self._judged, judged.relevant),
            ndcg_at_10(theirs[0], theirs[1], judged.relevant),
            len(sides[0]),
        )

    def _reranker_ndcg(self, encode: Callable[[Sequence[Any]], Vectors]) -> tuple[float, float, int] | None:
        judged = self.inputs.judgements
        assert judged is not None
        if not all(isinstance(row, str) for side in (judged.queries, judged.documents) for row in side):
            return None
        pairs: list[tuple[str, str]] = []
        relevant, ends = [], [0]
        for query, right in zip(judged.queries, judged.relevant):
            others = [number for number in range(len(judged.documents)) if number not in right]
            # Others evenly, so that they are not all of one kind.
            step = max(1, len(others) // _CANDIDATES)
            candidates = [*right, *others[::step]][: max(_CANDIDATES, len(right))]
            pairs += [(query, judged.documents[number]) for number in candidates]
            ends.append(len(pairs))
            grades = right if isinstance(right, Mapping) else dict.fromkeys(right, 1)
            relevant.append({place: grades[number] for place, number in enumerate(candidates) if number in grades})
        spans = [slice(start, end) for start, end in zip(ends, ends[1:])]
        if self._judged_scores is None:
            scores = _encoded(self.model, pairs)
            self._judged_scores = [scores[span] for span in spans]
        theirs = _in_batches(encode, pairs)
        return (
            float(np.mean(ndcg_of_scores(self._judged_scores, relevant))),
            float(np.mean(ndcg_of_scores([theirs[span] for span in spans], relevant))),
            len(spans),
        )


def run_graph(session: Session, reader: Any, rows: Sequence[Any], padding: int = 0) -> Vectors:
    """Rows of one verb → what its graph gives, as a program that opens the folder would run it.

    Args:
        session: The graph.
        reader: What turns rows into tensors, as it was read from the folder.
        rows: Rows of the graph's verb.
        padding: Columns of padding to add to the texts, where that changes nothing.

    Returns:
        (rows, dim) or (rows,).
    """
    return session.run(padded(graph_features(reader, rows), reader, session, padding))[0]


def graph_features(reader: Any, rows: Sequence[Any]) -> dict[str, np.ndarray]:
    """Rows → arrays, by name; those that no graph takes are left out."""
    features = reader.preprocess(list(rows))
    return {name: features[name].numpy() for name in _MODEL_INPUTS if isinstance(features.get(name), torch.Tensor)}


def padded(features: Mapping[str, np.ndarray], reader: Any, session: Session, columns: int) -> dict[str, np.ndarray]:
    """The same texts with more padding on the side where the tokenizer puts it, as far as there are positions.

    A graph without a mask reads padding as text, and one of a fixed length takes no other: theirs stay as they are.
    """
    features = dict(features)
    shape = session.inputs.get("input_ids", {}).get("shape", [])
    if not columns or "attention_mask" not in session.inputs or len(shape) != 2 or not isinstance(shape[1], str):
        return features
    width = features["input_ids"].shape[1]
    columns = min(columns, (reader.max_seq_length or width + columns) - width)
    if columns < 1:
        return features
    tokenizer = reader.tokenizer
    side = (columns, 0) if tokenizer.padding_side == "left" else (0, columns)
    for name, empty in (("input_ids", tokenizer.pad_token_id or 0), ("attention_mask", 0), ("token_type_ids", 0)):
        if name in features:
            features[name] = np.pad(features[name], ((0, 0), side), constant_values=empty)
    return features


def _encoded(model: SentenceTransformer | CrossEncoder, rows: list[Any]) -> Vectors:
    settings: dict[str, Any] = {"batch_size": _BATCH, "prompt": "", "show_progress_bar": False}
    if isinstance(model, SentenceTransformer):
        with model.truncate_embeddings(None):
            return np.asarray(model.encode(rows, **settings), dtype=np.float32)
    return np.asarray(model.predict(rows, **settings), dtype=np.float32)


def _in_batches(encode: Callable[[Sequence[Any]], Vectors], rows: list[Any]) -> Vectors:
    """As `encode`, rows of like length together."""
    order = np.argsort([len(str(row)) for row in rows], kind="stable")
    parts = [encode([rows[row] for row in order[start : start + _BATCH]]) for start in range(0, len(rows), _BATCH)]
    found = np.concatenate(parts)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return found[back]


def _with_longest(model: SentenceTransformer | CrossEncoder, verb: str, rows: list[Any]) -> list[Any]:
    """The rows, and one of all their texts together, which is cut where texts are cut."""
    if verb == "image":
        return rows
    most = 8 * min(model.max_seq_length or 512, 512)
    texts = [row if isinstance(row, str) else row["text"] if isinstance(row, dict) else row[1] for row in rows]
    long = " ".join(texts)
    while len(long) < most:
        long = f"{long} {long}"
    long = long[:most]
    if verb == "text":
        return [*rows, long]
    return [*rows, {**rows[0], "text": long} if verb == "fused" else (rows[0][0], long)]


def _verb_of(row: Any) -> str:
    """Which verb encodes a row."""
    if isinstance(row, dict) and row.get("text") is not None and row.get("image") is not None:
        return "fused"
    if isinstance(row, str) or (isinstance(row, dict) and row.get("text") is not None):
        return "text"
    return "image"
