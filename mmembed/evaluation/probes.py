"""What can be read off a vector? Probes of proxy tasks, cross-validated by group, beside their baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from mmembed.evaluation.item_vectors import groups_of, item_vectors
from mmembed.evaluation.label_leakage import LabelLeak, find_label_leak
from mmembed.evaluation.probes_learning import PROBES, predict_held_out
from mmembed.evaluation.probes_scores import Scored, interval_of_mean, score_classes, score_numbers
from mmembed.evaluation.probes_tasks import ProbeTask, Target, guess_tasks, parse_task, read_target

BASELINES = ("majority", "tfidf")


@dataclass(frozen=True)
class ProbeResult:
    """One task, one representation, one probe.

    Args:
        task: its title.
        representation: "text", "image", "text_pca32", …; for a baseline its name.
        probe: "logistic", "mlp", "knn", or empty for a baseline.
        scored: the metrics on all rows, each predicted by probes that had not seen its group.
        unnamed: the same for the rows whose text does not name their label; None where there are none, or no such labels.
    """

    task: str
    representation: str
    probe: str
    scored: Scored
    unnamed: Scored | None = None

    @property
    def key(self) -> str:
        """What its metrics' names begin with."""
        return "_".join(part for part in (self.task, self.representation, self.probe) if part)


@dataclass(frozen=True)
class Probing:
    """All that was measured.

    Args:
        targets: the tasks with their rows, in order.
        results: every task, representation and probe, baselines first within a task.
        leaks: by task, for labels that are texts.
        folds: how many.
        seed: of folds, probes and resampling.
        representations: of the model, without baselines.
        probes: the first one is the one that counts.
    """

    targets: Sequence[Target]
    results: Sequence[ProbeResult]
    leaks: Mapping[str, LabelLeak]
    folds: int
    seed: int
    representations: Sequence[str]
    probes: Sequence[str]

    @property
    def primary(self) -> str:
        """The name of the number that counts: the mean over tasks and representations of the first probe's main metric."""
        return "mean_f1_macro" if any(target.task.kind != "number" for target in self.targets) else "mean_spearman"

    def metrics(self) -> dict[str, float]:
        """Every number by name, each task's n and classes among them."""
        main = self.primary.removeprefix("mean_")
        counting = [
            result.scored
            for result in self.results
            if result.probe == self.probes[0]
            and result.representation in self.representations
            and result.scored.main == main
        ]
        metrics = {self.primary: float(np.mean([scored.metrics[main] for scored in counting]))}
        tasks = [target for target in self.targets if (target.task.kind == "number") == (main == "spearman")]
        same_rows = all(list(target.groups) == list(tasks[0].groups) for target in tasks)
        interval = interval_of_mean(counting, same_groups=same_rows)
        if interval is not None:
            metrics[f"{self.primary}_low"], metrics[f"{self.primary}_high"] = interval
        metrics[f"{self.primary}_n"] = float(len({int(row) for target in tasks for row in target.rows}))
        metrics["folds"] = float(self.folds)
        for target in self.targets:
            title = target.task.title
            metrics[f"{title}_n"] = float(len(target.rows))
            metrics[f"{title}_groups"] = float(len(set(target.groups)))
            if target.classes:
                metrics[f"{title}_classes"] = float(len(target.classes))
            if title in self.leaks:
                metrics[f"{title}_named_in_text"] = self.leaks[title].named
        for result in self.results:
            metrics |= {f"{result.key}_{name}": value for name, value in result.scored.metrics.items()}
            interval = result.scored.interval()
            if interval is not None:
                names = [f"{result.key}_{result.scored.main}_{end}" for end in ("low", "high")]
                metrics |= dict(zip(names, interval))
            if result.unnamed is not None:
                metrics[f"{result.key}_unnamed_{result.unnamed.main}"] = result.unnamed.metrics[result.unnamed.main]
                metrics[f"{result.task}_unnamed_n"] = float(result.unnamed.n)
        return metrics

    def of(self, task: str, representation: str, probe: str = "") -> ProbeResult | None:
        """The result of a cell, or None where it was not measured."""
        wanted = (task, representation, probe)
        return next((one for one in self.results if (one.task, one.representation, one.probe) == wanted), None)


def evaluate_probes(embeddings_or_model: Any, items: Any, **options: Any) -> dict[str, float]:
    """Measure what probes read off the vectors: category, price band, gender, … by logistic regression, MLP and k-NN.

    Keys are ``<task>_<representation>_<probe>_<metric>``, such as ``gender_image_logistic_f1_macro`` with its 95 %
    interval ``…_low`` and ``…_high`` (bootstrap by group), and ``…_unnamed_f1_macro`` on the rows whose text does not name
    their label; ``<task>_majority_…`` and ``<task>_tfidf_…`` are the baselines; ``<task>_n``, ``<task>_groups`` and
    ``<task>_classes`` say of what. Numbers have ``…_spearman`` and ``…_mse`` (of the logarithm, where the task takes it).

    Args:
        embeddings_or_model: a SentenceTransformer, `Embeddings`, a folder of them, or several by name, see `item_vectors`.
        items: ITEMS with the tasks' columns.
        **options: as for `measure_probes`.

    Returns:
        The metrics; the primary one is ``mean_f1_macro`` (``mean_spearman`` where all tasks are numbers): the mean over
        tasks and representations of the first probe's.

    Raises:
        ValueError: as `measure_probes`.

    Example:
        >>> rows = {"id": [f"{n}" for n in range(60)], "kind": ["mug", "hat"] * 30}
        >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0]] * 30, dtype=np.float32)
        >>> found = evaluate_probes(vectors, rows, tasks=["kind"], probes=["logistic"], pca=None)
        >>> found["kind_vectors_logistic_f1_macro"], found["kind_n"], round(found["kind_majority_f1_macro"], 1)
        (1.0, 60.0, 0.3)
    """
    return measure_probes(embeddings_or_model, items, **options).metrics()


def measure_probes(
    embeddings_or_model: Any,
    items: Any,
    *,
    tasks: Sequence[ProbeTask | str | Mapping[str, Any]] | None = None,
    probes: Sequence[str] = PROBES,
    uses: Sequence[str] | None = None,
    pca: int | None = 32,
    folds: int = 5,
    bootstrap_samples: int = 1000,
    seed: int = 0,
    label_names: Mapping[str, Sequence[str]] | None = None,
    batch_size: int = 64,
    reader: Any = None,
    image_features: Any = None,
    show_progress_bar: bool = False,
) -> Probing:
    """Measure probes; `Probing.metrics` and `probes_section` are two views of what this returns.

    Args:
        embeddings_or_model: see `evaluate_probes`.
        items: ITEMS with the tasks' columns; rows of one `group` are in one fold.
        tasks: `ProbeTask`s, or "column" and "column:kind" with kind class, bands, number or tags; None is what the columns
            offer, see `guess_tasks`.
        probes: of "logistic" (ridge regression for numbers), "mlp" and "knn"; the first one counts.
        uses: for a model, of "text", "image" and "fused"; None is all that the items allow.
        pca: each representation also with this many principal components, learnt in each fold; None leaves that out.
        folds: of the cross-validation.
        bootstrap_samples: resamples of the groups for the intervals; 0 gives none.
        seed: of folds, probes and resampling.
        label_names: other names of labels to look for in the texts, such as in their language.
        batch_size: rows encoded at once.
        reader: an `ImageReader`.
        image_features: stored activations to encode instead of images.
        show_progress_bar: of the encoding and the probes.

    Returns:
        The results.

    Raises:
        ValueError: unknown columns or probes, tasks of one name, too few classes or groups, vectors that do not fit.
    """
    unknown = [probe for probe in probes if probe not in PROBES]
    if unknown or not probes:
        raise ValueError(f"probes={list(probes)!r}; choose of {', '.join(PROBES)}")
    if folds < 2:
        raise ValueError(f"folds={folds}; cross-validation needs at least 2")
    chosen = guess_tasks(items, folds=folds) if tasks is None else [parse_task(task) for task in tasks]
    titles = [task.title for task in chosen]
    if not chosen or len(set(titles)) < len(titles):
        raise ValueError(f"tasks {titles!r}: give at least one, and each its own name")
    targets = [read_target(task, items, folds=folds) for task in chosen]
    vectors = item_vectors(
        embeddings_or_model,
        items,
        uses=uses,
        batch_size=batch_size,
        reader=reader,
        image_features=image_features,
        show_progress_bar=show_progress_bar,
    )
    texts = _texts(items)
    cells: list[tuple[str, str, int | None]] = [("majority", "", None)]
    if texts is not None:
        cells.append(("tfidf", "", None))
    for name, array in vectors.items():
        cells += [(name, probe, None) for probe in probes]
        if pca is not None and pca < array.shape[1]:
            cells += [(f"{name}_pca{pca}", probe, pca) for probe in probes]
    leaks: dict[str, LabelLeak] = {}
    results: list[ProbeResult] = []
    bar = tqdm(total=len(targets) * len(cells), desc="probes", unit="probe", disable=not show_progress_bar)
    try:
        for target in targets:
            title = target.task.title
            if texts is not None and target.task.kind in ("class", "tags"):
                leaks[title] = _leak(target, texts, label_names)
            for representation, probe, components in cells:
                inputs: Any = np.zeros((len(target.rows), 1))
                if representation == "tfidf" and texts is not None:
                    inputs = [texts[row] for row in target.rows]
                elif probe:
                    inputs = vectors[representation.removesuffix(f"_pca{components}")][target.rows]
                truth, predicted = predict_held_out(
                    target, inputs, probe or representation, folds=folds, pca=components, seed=seed
                )
                scored, unnamed = _scores(target, truth, predicted, leaks.get(title), bootstrap_samples, seed)
                results.append(ProbeResult(title, representation, probe, scored, unnamed))
                bar.update()
    finally:
        bar.close()
    return Probing(targets, results, leaks, folds, seed, list(vectors), list(probes))


def _scores(
    target: Target, truth: NDArray, predicted: NDArray, leak: LabelLeak | None, samples: int, seed: int
) -> tuple[Scored, Scored | None]:
    if target.task.kind == "number":
        return score_numbers(truth, predicted, target.groups, samples=samples, seed=seed), None
    scored = score_classes(truth, predicted, target.groups, samples=samples, seed=seed)
    rest = None if leak is None or not leak.rows.any() or leak.rows.all() else np.flatnonzero(~leak.rows)
    if rest is None:
        return scored, None
    groups = [target.groups[row] for row in rest]
    return scored, score_classes(truth[rest], predicted[rest], groups, samples=0)


def _leak(target: Target, texts: Sequence[str], aliases: Mapping[str, Sequence[str]] | None) -> LabelLeak:
    own = [texts[row] for row in target.rows]
    if target.task.kind == "tags":
        labels: list[Any] = [[target.classes[place] for place in np.flatnonzero(row)] for row in target.labels]
    else:
        labels = [target.classes[place] for place in target.labels]
    return find_label_leak(own, labels, name=target.task.title, aliases=aliases)


def _texts(items: Any) -> list[str] | None:
    """The text of every item, "" where there is none; None where no item has one."""
    names = items.column_names if hasattr(items, "column_names") else items
    texts = list(items["text"]) if "text" in names else [None] * len(groups_of(items))
    if "text_parts" in names:
        parts = list(items["text_parts"])
        texts = [
            " ".join(part["text"] for part in several) if several else text
            for text, several in zip(texts, parts, strict=True)
        ]
    return [text or "" for text in texts] if any(text and text.strip() for text in texts) else None
