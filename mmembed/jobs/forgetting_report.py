"""What each stage gained and what it cost: every model of a chain on every stage's held-out data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmembed.evaluation.ranking import rank_retrieval
from mmembed.jobs.curve_picture import Point, draw_curves
from mmembed.pages import markdown_table, text_table
from mmembed.ranking_metrics import UNRANKED
from mmembed.statistics import bootstrap_interval, paired_bootstrap
from mmembed.training.run_lock import write_whole

if TYPE_CHECKING:
    from datasets import Dataset

WAYS = ("forward", "backward")
# At least one relevant document on top: what image-text papers call R@1, and recall@1 where a query has only one.
METRIC = "success@1"


@dataclass(frozen=True)
class HeldOut:
    """What models are measured on: a stage's test part, with all documents of that part as the gallery."""

    queries: Dataset
    documents: Dataset
    pairs: Dataset
    reader: Any
    query_use: Any = "text"
    document_use: Any = "image"
    batch_size: int = 64

    def sha256(self) -> str:
        """A hash of who looks for what among what."""
        described = [
            self.queries["id"][:],
            self.documents["id"][:],
            self.pairs["query_id"][:],
            self.pairs["positive_ids"][:],
            [self.query_use, self.document_use],
        ]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()


class Measurements:
    """Ranks of each query by model and data set, kept as files, so that none is measured twice.

    Args:
        folder: Where they are kept.
        ks: Cut-offs of success.
        samples: Resamples of the intervals.
        seed: Their seed.
        show_progress_bar: Show one while encoding.
        note: Called with what is being done.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ks: Sequence[int] = (1, 5, 10),
        samples: int = 2000,
        seed: int = 0,
        show_progress_bar: bool = False,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self.ks, self.show, self.note = folder, sorted({1, *ks}), show_progress_bar, note
        self._sampling = {"samples": samples, "seed": seed}
        self._held: dict[tuple[str, str], dict[str, Any]] = {}

    def measure(self, name: str, weights: str, model: Callable[[], Any], data: Mapping[str, HeldOut]) -> None:
        """Measure a model on every data set that it was not measured on yet.

        Args:
            name: The model.
            weights: A hash of its weights; a file of other weights is measured anew.
            model: Loads it; called at most once, and only if something is to be measured.
            data: What to measure on, by name.
        """
        load = cache(model)
        for data_name, held_out in data.items():
            path = self.folder / f"{name}--{data_name.replace('/', '+')}.json"
            identity = {"weights": weights, "data": held_out.sha256()}
            kept = _read(path)
            if {key: kept.get(key) for key in identity} != identity:
                self.note(f"measuring {name} on {data_name}")
                kept = {**identity, "ways": self._rank(load(), held_out)}
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, json.dumps(kept) + "\n")
            self._held[name, data_name] = kept["ways"]

    def _rank(self, model: Any, data: HeldOut) -> dict[str, Any]:
        rankings = rank_retrieval(
            model,
            data.queries,
            data.documents,
            data.pairs,
            query_use=data.query_use,
            document_use=data.document_use,
            batch_size=data.batch_size,
            reader=data.reader,
            k=1,
            show_progress_bar=self.show,
        )
        ways = {}
        for way, ranking in rankings.items():
            table = data.queries if way == "forward" else data.documents
            groups = dict(zip(table["id"][:], table["group"][:] if "group" in table.column_names else table["id"][:]))
            # captions of one picture depend on each other, and are resampled together
            labels = [groups[id] or f"id {id}" for id in ranking.query_ids]
            number = {label: place for place, label in enumerate(dict.fromkeys(labels))}
            ways[way] = {
                "direction": ranking.direction,
                "documents": len(ranking.document_ids),
                "ranks": ranking.first_ranks().tolist(),
                "clusters": [number[label] for label in labels],
            }
        return ways

    def values(self, model: str, data: str, way: str, metric: str = METRIC) -> tuple[np.ndarray, list[int]]:
        """Per query the metric, and which queries depend on each other."""
        held = self._held[model, data][way]
        ranks = np.array(held["ranks"])
        found = ranks != UNRANKED
        if metric == "mrr":
            return np.where(found, 1.0 / np.maximum(ranks, 1), 0.0), held["clusters"]
        return (found & (ranks <= int(metric.partition("@")[2]))).astype(float), held["clusters"]

    def direction(self, data: str, way: str) -> str:
        """Such as "text_to_image"."""
        return next(ways[way]["direction"] for (_, name), ways in self._held.items() if name == data)

    def interval(self, model: str, data: str, way: str, metric: str = METRIC) -> dict[str, float]:
        """{"mean", "low", "high", "n"} with a 95 % interval."""
        values, clusters = self.values(model, data, way, metric)
        found = bootstrap_interval(values, clusters=clusters, **self._sampling)
        return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}

    def difference(self, model: str, other: str, data: str, way: str) -> dict[str, float]:
        """Success@1 of a model minus that of another on the same queries: {"mean", "low", "high", "p_value", "n"}."""
        (ours, clusters), (theirs, _) = (self.values(name, data, way) for name in (model, other))
        found = paired_bootstrap(ours, theirs, clusters=clusters, **self._sampling)
        return {key: float(getattr(found, key)) for key in ("mean", "low", "high", "p_value", "n")}

    def all_metrics(self, model: str, data: str, way: str) -> dict[str, Any]:
        """Every success@k and MRR of a cell."""
        names = [f"success@{k}" for k in self.ks] + ["mrr"]
        return {
            "direction": self.direction(data, way),
            "documents": self._held[model, data][way]["documents"],
            **{name: self.interval(model, data, way, name) for name in names},
        }


def forgetting_report(
    measurements: Measurements, models: Sequence[str], learnt: Mapping[str, str | None]
) -> dict[str, Any]:
    """The matrix of models and data sets, and what changed along the chain.

    Args:
        measurements: Holds every model's ranks on every data set.
        models: In the order of the chain; the first is the base.
        learnt: Data set → the model that was trained on it; None for one that is only watched.

    Returns:
        "models", "data", "learnt", and by way ("forward", "backward"): "cells" (model → data → metrics), "since_base" and
        "since_learnt" (model → data → paired difference of success@1).
    """
    report: dict[str, Any] = {"models": list(models), "data": list(learnt), "learnt": dict(learnt), "metric": METRIC}
    for way in WAYS:
        cells = {m: {d: measurements.all_metrics(m, d, way) for d in learnt} for m in models}
        since_base = {m: {d: measurements.difference(m, models[0], d, way) for d in learnt} for m in models[1:]}
        since_learnt: dict[str, dict[str, Any]] = {}
        for data, model in learnt.items():
            if model is not None and model in models:
                for later in models[models.index(model) + 1 :]:
                    since_learnt.setdefault(later, {})[data] = measurements.difference(later, model, data, way)
        report[way] = {"cells": cells, "since_base": since_base, "since_learnt": since_learnt}
    return report


def write_report(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write a report as `forgetting.json`, `forgetting.md` and `forgetting.png`.

    Args:
        report: From `forgetting_report`.
        folder: Where to.

    Returns:
        The three paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "forgetting.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_whole(folder / "forgetting.md", report_page(report))
    models, cells = report["models"], report["forward"]["cells"]
    curves: dict[str, list[Point]] = {
        data: [(float(number), *_triple(cells[model][data][METRIC])) for number, model in enumerate(models)]
        for data in report["data"]
    }
    picture = draw_curves(
        folder / "forgetting.png",
        curves,
        title=f"{METRIC} on each data set's held-out part along the chain",
        subtitle="forward direction (queries find documents), 95 % intervals; a line that falls is forgetting",
        x_title="after",
        x_labels={float(number): model for number, model in enumerate(models)},
    )
    return [folder / "forgetting.json", folder / "forgetting.md", picture]


def report_page(report: Mapping[str, Any]) -> str:
    """The report as Markdown: for each direction the matrix, then what changed.

    Args:
        report: From `forgetting_report`.

    Returns:
        The page.
    """
    models, data, learnt = report["models"], report["data"], report["learnt"]
    lines = ["# What each stage gained, and what it cost", ""]
    lines += [
        f"{METRIC} on held-out data with 95 % bootstrap intervals; * marks the stage that trained on that data.",
        "",
    ]
    for way in WAYS:
        cells = report[way]["cells"]
        names = {d: cells[models[0]][d]["direction"].replace("_to_", " → ") for d in data}
        header = ["model", *(f"{d} ({names[d]}, n={cells[models[0]][d][METRIC]['n']})" for d in data)]
        lines += [f"## {way}: " + ("queries find documents" if way == "forward" else "documents find queries"), ""]
        rows = [[m, *(shown(cells[m][d][METRIC]) + (" *" if learnt[d] == m else "") for d in data)] for m in models]
        lines += [markdown_table(rows, header), ""]
        for key, what in (("since_base", "the base"), ("since_learnt", "the stage that trained on it")):
            if report[way][key]:
                changes = report[way][key]
                rows = [[m, *(_changed(changes[m].get(d)) for d in data)] for m in models if m in changes]
                lines += [f"Paired difference to {what}:", "", markdown_table(rows, ["model", *data]), ""]
    return "\n".join(lines)


def report_table(report: Mapping[str, Any]) -> str:
    """The matrix of the forward direction as a terminal's table.

    Args:
        report: From `forgetting_report`.

    Returns:
        The table, a model a line.
    """
    cells, learnt = report["forward"]["cells"], report["learnt"]
    rows = [
        [m, *(shown(cells[m][d][METRIC]) + (" *" if learnt[d] == m else "") for d in report["data"])]
        for m in report["models"]
    ]
    table = text_table(rows, ["model", *report["data"]])
    return f"{METRIC}, forward, on each data set's held-out part (*: trained on that data)\n\n{table}"


def write_weight_curve(
    measurements: Measurements, points: Mapping[float, str], data: Sequence[str], folder: Path, *, ends: tuple[str, str]
) -> dict[str, Any]:
    """The metric of every data set over the weight alpha between two models, as JSON, Markdown and a picture.

    Args:
        measurements: Holds the ranks of each point's model on each data set.
        points: Alpha → the name that its model was measured under.
        data: The data sets.
        folder: Where `weight_curve.{json,md,png}` go.
        ends: What stands at alpha 0 and at alpha 1.

    Returns:
        What the JSON holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alphas = sorted(points)
    curve = {
        way: {d: {f"{a:g}": measurements.interval(points[a], d, way) for a in alphas} for d in data} for way in WAYS
    }
    found = {"metric": METRIC, "ends": list(ends), **curve}
    write_whole(folder / "weight_curve.json", json.dumps(found, indent=1) + "\n")
    rows = [[f"{a:g}", *(shown(curve["forward"][d][f"{a:g}"]) for d in data)] for a in alphas]
    page = (
        f"{METRIC}, forward, over alpha: 0 is {ends[0]}, 1 is {ends[1]}.\n\n{markdown_table(rows, ['alpha', *data])}\n"
    )
    write_whole(folder / "weight_curve.md", page)
    draw_curves(
        folder / "weight_curve.png",
        {d: [(a, *_triple(curve["forward"][d][f"{a:g}"])) for a in alphas] for d in data},
        title=f"{METRIC} over the weight of the trained model",
        subtitle=f"0 is {ends[0]}, 1 is {ends[1]}; forward direction, 95 % intervals",
        x_title="alpha",
        x_labels={a: f"{a:g}" for a in alphas},
    )
    return found


def shown(figure: Mapping[str, float]) -> str:
    """A figure with its interval.

    Example:
        >>> shown({"mean": 0.5, "low": 0.4, "high": 1.0})
        '.500 [.400, 1.000]'
    """
    mean, low, high = (f"{figure[key]:.3f}".removeprefix("0") for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _changed(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return ""
    mean, low, high = (f"{figure[key]:+.3f}".replace("0.", ".", 1) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _triple(figure: Mapping[str, float]) -> tuple[float, float, float]:
    return figure["mean"], figure["low"], figure["high"]


def _read(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or cut short: it is measured anew
        return {}
    return held if isinstance(held, dict) else {}
