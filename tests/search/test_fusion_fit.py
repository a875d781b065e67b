"""Learning a fusion: what it is chosen among, and that it is never judged by what chose it."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.ranking_metrics import ranking_metrics
from mmembed.search.fusion import Fusion
from mmembed.search.fusion_fit import fit_fusion


def runs_of(seed: int, *, queries: int = 40, good: float = 2.0, bad: float = 0.3) -> tuple[dict, dict]:
    """Two rankings of 30 documents, of which "good" puts the relevant one ahead by more than "bad" does."""
    generator = np.random.default_rng(seed)
    runs: dict[str, dict] = {"bad": {}, "good": {}}
    qrels = {}
    for query in range(queries):
        relevant = int(generator.integers(30))
        qrels[f"q{query}"] = [f"d{relevant:02d}"]
        for name, strength in (("bad", bad), ("good", good)):
            scores = generator.normal(size=30)
            scores[relevant] += strength
            run = {f"d{row:02d}": float(scores[row]) for row in np.argsort(-scores)}
            runs[name][f"q{query}"] = run
    return runs, qrels


def test_the_best_of_the_grid_is_taken() -> None:
    runs, qrels = runs_of(0)
    fit = fit_fusion(runs, qrels)
    assert fit.n == 40 and fit.metric == "ndcg@10" and fit.value == max(value for _, value in fit.values)
    # its value is what the fusion gives, computed anew
    fused = {query: fit.fusion.fuse({name: run[query] for name, run in runs.items()}) for query in qrels}
    assert ranking_metrics(fused, qrels, ["ndcg@10"])["ndcg@10"].mean() == pytest.approx(fit.value)
    for name, run in runs.items():
        assert ranking_metrics(run, qrels, ["ndcg@10"])["ndcg@10"].mean() == pytest.approx(fit.alone[name])
    assert fit.fusion.weight("good") > fit.fusion.weight("bad")
    assert fit.value >= max(fit.alone.values())


def test_the_grid_is_what_it_says() -> None:
    runs, qrels = runs_of(1, queries=3)
    tried = [fusion for fusion, _ in fit_fusion(runs, qrels).values]
    assert tried[0] == Fusion("rrf", {"bad": 1.0, "good": 1.0}, 60.0)
    assert {(fusion.method, fusion.k) for fusion in tried} == {
        ("rrf", 10),
        ("rrf", 60),
        ("min_max", 60),
        ("z_score", 60),
    }
    for method, k in {(fusion.method, fusion.k) for fusion in tried}:
        shares = sorted(
            f.weight("good") / (f.weight("good") + f.weight("bad")) for f in tried if (f.method, f.k) == (method, k)
        )
        assert shares == pytest.approx([number / 10 for number in range(11)])
    three = {**runs, "third": runs["good"]}
    sums = [sum(f.weights.values()) for f, _ in fit_fusion(three, qrels, methods=["z_score"], step=0.5).values]
    assert len(sums) == 7 and sums[1:] == pytest.approx([1] * 6)


def test_of_equal_fusions_the_plain_one_is_taken() -> None:
    runs, qrels = runs_of(2, queries=5, good=50, bad=50)
    fit = fit_fusion(runs, qrels)
    assert fit.value == 1 and fit.fusion.method == "rrf" and len(set(fit.fusion.weights.values())) == 1


def test_it_says_which_queries_chose_it() -> None:
    runs, qrels = runs_of(3, queries=4)
    fitted = fit_fusion(runs, qrels, query_keys={query: f"key of {query}" for query in qrels}).fusion.fitted_on
    assert fitted is not None and fitted.query_keys == tuple(f"key of q{n}" for n in range(4)) and fitted.tried == 44


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": {"words": {}}}, "at least two"),
        ({"methods": ["rfr"]}, "did you mean 'rrf'"),
        ({"step": 0}, "step=0"),
        ({"metric": "ndgc@10"}, "unknown metric"),
    ],
)
def test_what_is_refused(change: dict, message: str) -> None:
    runs, qrels = runs_of(4, queries=2)
    with pytest.raises(ValueError, match=message):
        fit_fusion(**{"runs": runs, "qrels": qrels, **change})
