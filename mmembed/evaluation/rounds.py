"""How well did dialogues find what they looked for, round by round, and is it more than noise would have found?"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmembed.evaluation.noise_control import NOISE_LEVELS, noise_control, normal_scores
from mmembed.evaluation.round_ranks import Ranks, first_hits, ranks_by_round, round_values
from mmembed.evaluation.sections import Table
from mmembed.statistics import PairedDifference, bootstrap_interval, paired_bootstrap

PRIMARY_METRIC = "bri"


@dataclass(frozen=True)
class RoundMeasurement:
    """The ranks of dialogues' targets, and of the same targets where noise takes the place of the answers.

    Args:
        ranks: (targets, 1 + rounds), from 1 on.
        control_ranks: the same of the noise control.
        noise: its standard deviation, in standard deviations of a query's scores.
        control_scores: what noise was added to: "round 0" for given scores, "normal" for normal scores of the ranks.
    """

    ranks: Ranks
    control_ranks: Ranks
    noise: float
    control_scores: str

    @property
    def rounds(self) -> int:
        """How many questions the longest dialogue has."""
        return self.ranks.shape[1] - 1


def evaluate_rounds(
    ranks: Sequence[Any] | ArrayLike,
    scores: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    *,
    candidates: int | None = None,
    first_rank: int = 1,
    rounds: int | None = None,
    ks: Sequence[int] = (1, 5, 10),
    hit_at: int = 10,
    noise: float | Sequence[float] = NOISE_LEVELS,
    bootstrap_samples: int = 2000,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    name: str = "",
) -> dict[str, float]:
    """Measure dialogues by the ranks of their targets, with a noise control beside each number.

    ``hits@k[round=t]`` is cumulative, as ChatIR counts: the share of targets that stood among the best k in round t or in
    one before it, round 0 being the query alone. ``recall@k[round=t]`` is the share in round t itself. ``bri`` (the
    primary metric, lower is better) is the best log rank integral, see `bri`. ``mrr``, ``median_rank``.
    Without ``[round=…]`` a name means the last round. ``rounds_to_success`` is the mean round of the first hit at
    `hit_at` among targets that are first hit after a question (Lee et al. 2024; missing where there is none),
    ``rounds_to_success_or_end`` the mean over all, a miss counting one round more than were played. Each mean has
    ``…_low`` and ``…_high``, its 95 % bootstrap interval over the targets.

    Cumulative hits and BRI keep the best of all rounds, so they also rise when scores merely change: the same keys
    with ``control_`` in front are of rankings by the scores of round 0 with Gaussian noise drawn anew each round, and
    ``bri_gain`` is how much lower than the control's BRI is, paired by target.

    Args:
        ranks: a row a target: its rank before the first question, after the first answer, …; see `ranks_by_round`.
            With mid-ranks for ties (`mid_ranks`) a target that ties with all others is no hit.
        scores: (targets, candidates), the scores of round 0, for the control. None: standard normal scores that give
            the ranks of round 0, which is a guess.
        targets: int (targets,), each target's column of `scores`.
        candidates: how many there are, where `scores` is None; None: as many as the largest rank says.
        first_rank: what the best rank is called in `ranks`, 1 or 0.
        rounds: the budget of questions, where dialogues may have stopped before; BRI is a mean over all of them, so that two
            ways to ask are compared over one budget. None: as many as the longest dialogue has.
        ks: cut-offs.
        hit_at: cut-off of ``rounds_to_success``.
        noise: standard deviation of the control's noise, in standard deviations of a query's scores; of several the one
            with the lowest BRI is reported, as ``control_noise``.
        bootstrap_samples: resamples for the intervals; 0 gives none.
        clusters: (targets,) labels of targets that depend on each other; they are resampled together.
        seed: of the noise and of the resampling.
        name: prefix of all keys, with an underscore.

    Returns:
        The metrics by name.

    Raises:
        ValueError: ranks that are none, scores that do not fit them, or an option out of range.

    Example:
        >>> metrics = evaluate_rounds([[30, 12, 4], [7, 2]], candidates=50, ks=(10,), noise=0.2)
        >>> {key: round(metrics[key], 2) for key in ("bri", "hits@10", "recall@10[round=0]", "mrr", "median_rank", "n")}
        {'bri': 1.72, 'hits@10': 1.0, 'recall@10[round=0]': 0.5, 'mrr': 0.38, 'median_rank': 3.0, 'n': 2.0}
        >>> metrics["control_recall@10[round=0]"], metrics["control_noise"]
        (0.5, 0.2)
    """
    measured = measure_rounds(
        ranks, scores, targets, candidates=candidates, first_rank=first_rank, rounds=rounds, noise=noise, seed=seed
    )
    found = rounds_metrics(
        measured, ks=ks, hit_at=hit_at, bootstrap_samples=bootstrap_samples, clusters=clusters, seed=seed
    )
    return {f"{name}_{key}" if name else key: value for key, value in found.items()}


def measure_rounds(
    ranks: Sequence[Any] | ArrayLike,
    scores: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    *,
    candidates: int | None = None,
    first_rank: int = 1,
    rounds: int | None = None,
    noise: float | Sequence[float] = NOISE_LEVELS,
    seed: int = 0,
) -> RoundMeasurement:
    """Check ranks and rank the same targets by noise; what `evaluate_rounds` counts and `rounds_table` prints.

    Args:
        ranks, scores, targets, candidates, first_rank, rounds, noise, seed: as of `evaluate_rounds`.

    Returns:
        The ranks, and those of the control.

    Raises:
        ValueError: as of `evaluate_rounds`.

    Example:
        >>> measure_rounds([[9, 4]], candidates=20, noise=0.5).control_ranks[0, 0]
        np.float64(9.0)
    """
    whole = ranks_by_round(ranks, first_rank=first_rank, rounds=rounds)
    if (scores is None) != (targets is None):
        raise ValueError("scores and targets go together: a row of scores for each target, and its column there")
    levels = [float(noise)] if isinstance(noise, (int, float)) else [float(level) for level in noise]
    told = "round 0"
    if scores is None or targets is None:
        told = "normal"
        scores, targets = normal_scores(
            whole[:, 0], candidates if candidates is not None else int(np.ceil(whole.max()))
        )
    elif candidates is not None:
        raise ValueError("candidates is for ranks without scores; scores say how many there are")
    level, control = noise_control(scores, targets, whole.shape[1] - 1, levels, seed=seed)
    if len(control) != len(whole):
        raise ValueError(f"{len(control)} rows of scores for {len(whole)} targets")
    return RoundMeasurement(whole, control, level, told)


def rounds_metrics(
    measured: RoundMeasurement,
    *,
    ks: Sequence[int] = (1, 5, 10),
    hit_at: int = 10,
    bootstrap_samples: int = 2000,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """The numbers of `evaluate_rounds`, of ranks that are measured already.

    Args:
        measured: from `measure_rounds`.
        ks, hit_at, bootstrap_samples, clusters, seed: as of `evaluate_rounds`.

    Returns:
        The metrics by name, without a prefix.

    Example:
        >>> rounds_metrics(measure_rounds([[100, 10]], candidates=100))["bri"].__round__(1)
        3.5
    """
    if not ks or min(ks) < 1 or hit_at < 1:
        raise ValueError(f"ks={tuple(ks)}, hit_at={hit_at}; cut-offs are whole numbers from 1 on")
    metrics: dict[str, float] = {}

    def put(key: str, values: NDArray[np.float64]) -> None:
        metrics[key] = float(values.mean())
        if bootstrap_samples:
            own = None if len(values) != len(measured.ranks) else clusters
            interval = bootstrap_interval(values, samples=bootstrap_samples, seed=seed, clusters=own)
            metrics[f"{key}_low"], metrics[f"{key}_high"] = interval.low, interval.high

    for prefix, ranks in (("", measured.ranks), ("control_", measured.control_ranks)):
        put(f"{prefix}bri", round_values(ranks, "bri"))
        for base in [f"{kind}@{k}" for kind in ("hits", "recall") for k in ks] + ["mrr"]:
            put(f"{prefix}{base}", round_values(ranks, base))
            for number in range(measured.rounds + 1):
                put(f"{prefix}{base}[round={number}]", round_values(ranks, f"{base}[round={number}]"))
        metrics[f"{prefix}median_rank"] = float(np.median(ranks[:, -1]))
        for number in range(measured.rounds + 1):
            metrics[f"{prefix}median_rank[round={number}]"] = float(np.median(ranks[:, number]))
        first = first_hits(ranks, hit_at)
        if (first >= 1).any():
            put(f"{prefix}rounds_to_success", first[first >= 1])
        put(f"{prefix}rounds_to_success_or_end", np.where(np.isnan(first), ranks.shape[1], first))
    if bootstrap_samples:
        gain = compare_rounds(
            measured.control_ranks, measured.ranks, samples=bootstrap_samples, clusters=clusters, seed=seed
        )
        metrics |= {"bri_gain": gain.mean, "bri_gain_low": gain.low, "bri_gain_high": gain.high}
    metrics["control_noise"] = measured.noise
    metrics["rounds"], metrics["n"] = float(measured.rounds), float(len(measured.ranks))
    return metrics


def compare_rounds(
    a: Sequence[Any] | ArrayLike,
    b: Sequence[Any] | ArrayLike,
    metric: str = PRIMARY_METRIC,
    *,
    samples: int = 2000,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> PairedDifference:
    """How two ways to ask differ on the same targets, by the paired bootstrap.

    Args:
        a: ranks of the targets under the first, from 1 on.
        b: ranks of the same targets in the same order under the second.
        metric: a name of `round_values`.
        samples: resamples.
        clusters: (targets,) labels of targets that depend on each other.
        seed: of the resampling.

    Returns:
        The mean of ``a − b`` with its interval; below 0 the first has the lower BRI.

    Raises:
        ValueError: another number of targets, or an unknown metric.

    Example:
        >>> compare_rounds([[100, 10], [50, 5]], [[100, 100], [50, 50]]).mean.__round__(2)
        -1.15
    """
    first, second = ranks_by_round(a), ranks_by_round(b)
    return paired_bootstrap(
        round_values(first, metric), round_values(second, metric), samples=samples, clusters=clusters, seed=seed
    )


def rounds_table(
    measured: Mapping[str, RoundMeasurement],
    *,
    k: int = 10,
    rounds: Sequence[int] = (0, 1, 3, 5, 10),
    reference: str | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> Table:
    """Several ways to ask, a row each, and under them what noise would have found.

    Args:
        measured: from `measure_rounds`, by name.
        k: cut-off of hits and recall.
        rounds: whose cumulative hits are shown; those that were not played are left out.
        reference: the name of a row with which all others are compared, paired by target.
        samples: resamples of the intervals.
        seed: of the resampling.

    Returns:
        A table with percentages of hits and recall; controls that are the same stand once.

    Raises:
        ValueError: no rows, or a reference that is none of them.

    Example:
        >>> table = rounds_table({"asked": measure_rounds([[30, 12, 4], [7, 2]], candidates=50, noise=0.2)})
        >>> [row[0] for row in table.rows], table.rows[0][1]
        (['asked', 'noise control (0.2 sd, normal scores)'], '50.0/50.0/100.0')
    """
    if not measured or (reference is not None and reference not in measured):
        raise ValueError(f"rows {list(measured)}, reference {reference!r}; name one of the rows")
    last = max(one.rounds for one in measured.values())
    shown = sorted({number for number in rounds if number <= last} | {last})
    header = ["way to ask", f"hits@{k} r{'/'.join(map(str, shown))}", f"recall@{k} r0→r{last}", "mrr", "bri", "95 %"]
    header += ["median rank", "rounds to success", "n"]
    if reference is not None:
        header += [f"bri − {reference}", f"hits@{k} − {reference}"]
    rows: list[list[str | float | int | None]] = []
    controls: list[tuple[str, Ranks]] = []
    for name, one in measured.items():
        rows.append(_row(name, one.ranks, k, shown, measured, reference, samples, seed))
        told = "" if one.control_scores == "round 0" else ", normal scores"
        named = f"noise control ({one.noise:g} sd{told})"
        if not any(np.array_equal(one.control_ranks, ranks) for _, ranks in controls):
            again = any(named == known for known, _ in controls)
            controls.append((f"{named} of {name}" if again else named, one.control_ranks))
    rows += [_row(name, ranks, k, shown, measured, reference, samples, seed) for name, ranks in controls]
    caption = (
        "Hits are cumulative, recall is of one round, in per cent; bri is lower the better, with its interval over targets. "
        "A noise control ranks by the scores of round 0 and noise drawn anew each round: what a way to ask must exceed."
    )
    return Table("rounds", "Rounds", header, rows, caption)


def _row(
    name: str,
    ranks: Ranks,
    k: int,
    shown: Sequence[int],
    measured: Mapping[str, RoundMeasurement],
    reference: str | None,
    samples: int,
    seed: int,
) -> list[str | float | int | None]:
    last = ranks.shape[1] - 1

    def percent(metric: str) -> str:
        return f"{100 * round_values(ranks, metric).mean():.1f}"

    hits = "/".join(percent(f"hits@{k}[round={min(number, last)}]") for number in shown)
    own = bootstrap_interval(round_values(ranks, "bri"), samples=samples, seed=seed)
    first = first_hits(ranks, k)
    median = np.median(ranks, axis=0)
    row: list[str | float | int | None] = [
        name,
        hits,
        f"{percent(f'recall@{k}[round=0]')}→{percent(f'recall@{k}')}",
        f"{round_values(ranks, 'mrr').mean():.3f}",
        f"{own.mean:.3f}",
        f"[{own.low:.3f}, {own.high:.3f}]",
        f"{median[0]:g}→{median[-1]:g}",
        f"{first[first >= 1].mean():.2f}" if (first >= 1).any() else "–",
        len(ranks),
    ]
    if reference is not None:
        other = measured[reference].ranks
        for metric, scale in (("bri", 1), (f"hits@{k}", 100)):
            if other is ranks or len(other) != len(ranks):
                row.append("–")
                continue
            by = compare_rounds(ranks, other, metric, samples=samples, seed=seed)
            digits = 3 if scale == 1 else 1
            row.append(f"{scale * by.mean:+.{digits}f} [{scale * by.low:+.{digits}f}, {scale * by.high:+.{digits}f}]")
    return row
