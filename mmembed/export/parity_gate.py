"""Does a graph give what its model gives? In batches of every size, in both orders, padded further; and does it rank the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmembed.export.onnx_verbs import ExportError
from mmembed.ranking_metrics import ranking_metrics

BATCH_SIZES = (1, 3, 8)
_TOP = 10
_SAME = 1 - 1e-6  # cosine from which two rows of the model count as one
_DIFFERENT_ROWS = 8
_FEW = 24  # rows that are run in every way
_QUERIES_AT_ONCE = 256

Vectors = NDArray[np.float32]
#: Rows → their vectors (rows, dim), or scores (rows,).
Encode = Callable[[Sequence[Any]], Vectors]


@dataclass(frozen=True)
class ParityLimits:
    """What a graph must keep to be kept itself.

    Args:
        max_difference: Largest difference of one component from the model's, for vectors of length 1 (others are divided
            by the model's length first); of a score, for scores up to 1 (larger ones are divided by the model's). None
            for no limit.
        min_cosine: Lowest cosine between a row's two vectors; for scores, the correlation over all rows.
        min_overlap: Lowest share of a row's ten nearest rows that stay among the ten nearest.
        max_ndcg_loss: Largest loss of NDCG@10, where judgements are given.
    """

    max_difference: float | None
    min_cosine: float
    min_overlap: float
    max_ndcg_loss: float = 0.01


#: By precision.
LIMITS = {
    "fp32": ParityLimits(1e-5, 0.99999, 0.99),
    "fp16": ParityLimits(None, 0.999, 0.95),
    "int8": ParityLimits(None, 0.99, 0.8),
}


@dataclass
class Parity:
    """How a graph compares with its model.

    Args:
        name: Of the graph.
        rows: Rows compared.
        runs: Ways in which rows were encoded: each batch size in both orders, and with more padding, some of them; and
            once all.
        max_difference: See `ParityLimits`; likewise the two after it.
        min_cosine: The lowest.
        mean_cosine: The mean over rows and runs.
        overlap: The mean share of the ten nearest that stay.
        ndcg_model: NDCG@10 of the model, or None without judgements.
        ndcg: NDCG@10 of the graph.
        queries: Judged queries.
        source: What the rows were.
        limits: What was asked.
        reasons: Why it is refused; empty where it passed.
        size: Bytes of its files.
    """

    name: str
    rows: int = 0
    runs: int = 0
    max_difference: float = float("nan")
    min_cosine: float = float("nan")
    mean_cosine: float = float("nan")
    overlap: float = float("nan")
    ndcg_model: float | None = None
    ndcg: float | None = None
    queries: int = 0
    source: str = ""
    limits: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    size: int = 0
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the graph may be kept."""
        return not self.reasons


class ParityError(ExportError):
    """A graph that does not give what its model gives; nothing of it is kept.

    Args:
        parities: All that were asked for, some of them refused.
        report: Where the report stands.
    """

    def __init__(self, parities: Sequence[Parity], report: str) -> None:
        self.parities = list(parities)
        told = "; ".join(f"{parity.name}: {', '.join(parity.reasons)}" for parity in parities if not parity.passed)
        super().__init__(f"refused by the parity gate: {told}. It was not kept; {report} says more.")


def reference_problem(reference: Vectors) -> str | None:
    """Why these vectors of the model could not tell a right graph from a wrong one; None where they can.

    Args:
        reference: (rows, dim), or scores (rows,).

    Example:
        >>> reference_problem(np.ones((9, 4), np.float32))
        'the model gives only 1 different vectors for 9 rows: rows in a wrong order would not be seen'
        >>> reference_problem(np.eye(9, dtype=np.float32)) is None
        True
    """
    if not np.isfinite(reference).all():
        return "the model itself gives numbers that are not finite"
    if reference.ndim == 1:
        count = len(np.unique(np.round(reference.astype(np.float64), 6)))
    else:
        unit = _unit(reference)
        same = np.tril(unit @ unit.T > _SAME, -1).any(axis=1)
        count = int((~same).sum())
    if count < min(_DIFFERENT_ROWS, len(reference)):
        what = "scores" if reference.ndim == 1 else "vectors"
        return f"the model gives only {count} different {what} for {len(reference)} rows: rows in a wrong order would not be seen"
    return None


def measure_parity(
    name: str,
    encode: Callable[[Sequence[Any], int], Vectors],
    rows: Sequence[Any],
    reference: Vectors,
    *,
    limits: ParityLimits,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    source: str = "",
) -> Parity:
    """Run a graph on the rows in many ways, and compare each row with the model's vector.

    Args:
        name: Of the graph.
        encode: (rows, columns of padding to add) → (rows, dim) vectors, or (rows,) scores, in one run of the graph.
        rows: n different rows.
        reference: (n, dim) or (n,), what the model gives.
        limits: What is asked.
        batch_sizes: Rows a run.
        source: What the rows are.

    Returns:
        The comparison, with the reasons for which it is refused.

    Example:
        >>> vectors = np.eye(9, dtype=np.float32)
        >>> right = measure_parity("text", lambda rows, pad: vectors[list(rows)], range(9), vectors, limits=LIMITS["fp32"])
        >>> wrong = measure_parity("text", lambda rows, pad: vectors[list(rows)][::-1], range(9), vectors, limits=LIMITS["fp32"])
        >>> right.passed, right.runs, wrong.reasons[0]
        (True, 8, 'a component differs by 1.0e+00, more than 1.0e-05')
    """
    found = Parity(name, rows=len(rows), source=source, limits=asdict(limits))
    problem = reference_problem(reference)
    if problem:
        found.reasons.append(problem)
        return found
    numbers = list(range(len(rows)))
    # In every way a few, evenly taken; and once all of them.
    few = sorted({round(place * (len(rows) - 1) / (_FEW - 1)) for place in range(_FEW)})
    ways = [(size, order, 0) for size in batch_sizes for order in (few, few[::-1])]
    ways += [(max(batch_sizes), few, 5), (2 * max(batch_sizes), numbers, 0)]
    differences, cosines = [], []
    vectors = np.zeros_like(reference, dtype=np.float32)
    for size, order, padding in ways:
        for start in range(0, len(order), size):
            some = order[start : start + size]
            try:
                given = np.asarray(encode([rows[row] for row in some], padding), dtype=np.float32)
            except ExportError as error:
                found.reasons.append(f"{len(some)} rows cannot be run: {error}")
                return found
            if given.shape != (len(some), *reference.shape[1:]):
                wanted = (len(some), *reference.shape[1:])
                found.reasons.append(f"{len(some)} rows give numbers of shape {given.shape}, not {wanted}")
                return found
            vectors[some] = given
        if not np.isfinite(vectors[order]).all():
            bad = int((~np.isfinite(vectors[order])).reshape(len(order), -1).any(axis=1).sum())
            found.reasons.append(f"{bad} of {len(order)} rows are not finite")
            return found
        differences.append(_differences(vectors[order], reference[order]))
        cosines.append(_cosines(vectors[order], reference[order]))
    found.runs = len(ways)
    found.max_difference = float(np.max(differences))
    found.min_cosine, found.mean_cosine = float(min(map(np.min, cosines))), float(np.mean(np.concatenate(cosines)))
    found.overlap = top_overlap(vectors, reference)
    found.reasons += _reasons(found, limits, scores=reference.ndim == 1)
    return found


def judged(found: Parity, ndcg: tuple[float, float, int] | None, limits: ParityLimits) -> Parity:
    """Add NDCG@10 to a comparison, and the reason to refuse the graph where it falls too far.

    Args:
        found: The comparison; changed in place.
        ndcg: Of the model, of the graph, and over how many queries; None where there are no judgements.
        limits: What is asked.

    Returns:
        The same comparison.

    Example:
        >>> judged(Parity("text_int8"), (0.71, 0.69, 300), LIMITS["int8"]).reasons
        ['NDCG@10 falls from 0.7100 to 0.6900, by more than 0.01']
    """
    if ndcg is not None:
        found.ndcg_model, found.ndcg, found.queries = ndcg
        if not found.ndcg >= found.ndcg_model - limits.max_ndcg_loss:
            found.reasons.append(
                f"NDCG@10 falls from {found.ndcg_model:.4f} to {found.ndcg:.4f}, by more than {limits.max_ndcg_loss}"
            )
    return found


def _reasons(found: Parity, limits: ParityLimits, *, scores: bool) -> list[str]:
    reasons = []
    if limits.max_difference is not None and not found.max_difference <= limits.max_difference:
        what = "score" if scores else "component"
        reasons.append(f"a {what} differs by {found.max_difference:.1e}, more than {limits.max_difference:.1e}")
    if not found.min_cosine >= limits.min_cosine:
        what = "the correlation of scores" if scores else "the lowest cosine"
        reasons.append(f"{what} is {found.min_cosine:.5f}, less than {limits.min_cosine}")
    if not found.overlap >= limits.min_overlap:
        reasons.append(f"{found.overlap:.3f} of the ten nearest stay, less than {limits.min_overlap}")
    return reasons


def top_overlap(vectors: Vectors, reference: Vectors, k: int = _TOP) -> float:
    """The mean share of each row's k nearest other rows that are the same under both; of scores, of the k best rows.

    Args:
        vectors: (n, dim) or (n,).
        reference: Of the same shape.
        k: How many; fewer where there are not so many others.

    Example:
        >>> top_overlap(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), k=1)
        1.0
    """
    if reference.ndim == 1:
        k = max(1, min(k, len(reference) // 2))
        kept = set(np.argsort(-vectors, kind="stable")[:k].tolist())
        return len(kept & set(np.argsort(-reference, kind="stable")[:k].tolist())) / k
    # Half of the others at most: among all of them there is nothing to lose.
    k = max(1, min(k, (len(reference) - 1) // 2))
    nearest = []
    for table in (vectors, reference):
        unit = _unit(table)
        scores = unit @ unit.T
        np.fill_diagonal(scores, -np.inf)
        nearest.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
    return float(
        np.mean([len(set(ours) & set(theirs)) / k for ours, theirs in zip(*(one.tolist() for one in nearest))])
    )


def ndcg_at_10(queries: Vectors, documents: Vectors, relevant: Sequence[Any]) -> float:
    """Mean NDCG@10 of queries that rank documents by the cosine, ties counted against the relevant ones.

    Args:
        queries: (q, dim).
        documents: (n, dim).
        relevant: For each query the numbers of its relevant documents, or grades by number.

    Example:
        >>> ndcg_at_10(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), [[0], [1]])
        1.0
    """
    left, right = _unit(queries), _unit(documents)
    values: list[float] = []
    for start in range(0, len(left), _QUERIES_AT_ONCE):
        some = slice(start, start + _QUERIES_AT_ONCE)
        values += ndcg_of_scores(left[some] @ right.T, relevant[some])
    return float(np.mean(values))


def ndcg_of_scores(scores: Sequence[Vectors] | Vectors, relevant: Sequence[Any]) -> list[float]:
    """NDCG@10 of each query.

    Args:
        scores: For each query the scores of its candidates.
        relevant: For each query the numbers of its relevant candidates, or grades by number.

    Example:
        >>> ndcg_of_scores([np.array([0.1, 0.9, 0.5])], [{1: 2, 2: 1}])
        [1.0]
    """
    run, qrels = {}, {}
    for number, (row, judged) in enumerate(zip(scores, relevant)):
        row = np.asarray(row)
        # Who is not among the best ten, or tied with the tenth, counts nothing.
        threshold = np.sort(row)[-min(_TOP, len(row))]
        run[str(number)] = {str(column): float(row[column]) for column in np.flatnonzero(row >= threshold)}
        grades = judged if isinstance(judged, Mapping) else dict.fromkeys(judged, 1)
        qrels[str(number)] = {str(column): int(grade) for column, grade in grades.items()}
    return ranking_metrics(run, qrels, ["ndcg@10"])["ndcg@10"].tolist()


def parity_table(parities: Sequence[Parity]) -> str:
    """The comparisons as lines of text.

    Example:
        >>> print(parity_table([Parity("text_fp32", 40, 7, 1e-7, 1.0, 1.0, 1.0, size=90 << 20)]))
        graph      kept  MiB   rows  largest difference  lowest cosine  top-10 kept  NDCG@10  of the model  queries
        text_fp32  yes   90.0  40    1.0e-07             1.00000        1.000
    """
    rows = [
        (
            "graph",
            "kept",
            "MiB",
            "rows",
            "largest difference",
            "lowest cosine",
            "top-10 kept",
            "NDCG@10",
            "of the model",
            "queries",
        )
    ]
    for parity in parities:
        judged = parity.ndcg is not None and parity.ndcg_model is not None
        rows.append(
            (
                parity.name,
                "yes" if parity.passed else "NO",
                f"{parity.size / (1 << 20):.1f}",
                str(parity.rows),
                f"{parity.max_difference:.1e}",
                f"{parity.min_cosine:.5f}",
                f"{parity.overlap:.3f}",
                f"{parity.ndcg:.4f}" if judged else "",
                f"{parity.ndcg_model:.4f}" if judged else "",
                str(parity.queries) if judged else "",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    for parity in parities:
        lines += [f"{parity.name}: {reason}" for reason in parity.reasons]
        lines += [f"{parity.name}: {parity.note}"] if parity.note else []
    return "\n".join(lines)


def report_texts(parities: Sequence[Parity]) -> tuple[str, str]:
    """The report as JSON and as text."""
    entries = [{**asdict(parity), "passed": parity.passed} for parity in parities]
    sources = "\n".join(sorted({f"rows: {parity.source}" for parity in parities if parity.source}))
    return (
        json.dumps({"graphs": entries}, ensure_ascii=False, indent=2, default=str) + "\n",
        f"{parity_table(parities)}\n{sources}\n",
    )


def _unit(vectors: Vectors) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(lengths, np.float32(1e-12))).astype(np.float32)


def _differences(vectors: Vectors, reference: Vectors) -> float:
    if reference.ndim == 1:
        return float(np.max(np.abs(vectors - reference) / np.maximum(1.0, np.abs(reference))))
    lengths = np.linalg.norm(reference, axis=1, keepdims=True)
    return float(np.max(np.abs(vectors - reference) / np.maximum(lengths, 1e-12)))


def _cosines(vectors: Vectors, reference: Vectors) -> NDArray[np.float64]:
    left, right = vectors.astype(np.float64), reference.astype(np.float64)
    if reference.ndim == 1:
        left, right = left - left.mean(), right - right.mean()
        return np.array([left @ right / max(np.linalg.norm(left) * np.linalg.norm(right), 1e-30)])
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (left * right).sum(axis=1) / np.maximum(lengths, 1e-30)
