"""What is measured and written after each stage: the forgetting report, the curve over its weight, its model's card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.stage_data import ChainData
from mmembed.jobs.stage_file import ChainPlan, StagePlan
from mmembed.jobs.stage_options import TRAINED

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from mmembed.training.stages import StageRecord


class StageReport:
    """Called by `run_stages` with the finished stages; what was measured before is read back.

    Args:
        plan: The chain.
        folder: The run's folder.
        data: Its data.
        args: The training arguments of the first stage, for the seed and the bars.
        note: Called with what is being done.
    """

    def __init__(
        self, plan: ChainPlan, folder: Path, data: ChainData, args: Any, note: Callable[[str | None], None]
    ) -> None:
        self.plan, self.folder, self.data, self.args, self.note = plan, folder, data, args, note
        self.base = folder / "base" / "model"

    @cached_property
    def _measurements(self) -> Any:
        from mmembed.jobs.forgetting_report import Measurements

        options = self.plan.stages[0].options
        return Measurements(
            self.folder / "cells",
            ks=options.ks,
            samples=options.bootstrap_samples,
            seed=self.args.seed,
            show_progress_bar=not self.args.disable_tqdm,
            note=self.note,
        )

    def is_whole(self) -> bool:
        """Whether every stage was finished and reported before, so that not even the data need be read."""
        from mmembed.training.stages import read_chain

        records = read_chain(self.folder)
        names = [plan.name for plan in self.plan.stages]
        if [record.name for record in records] != names or any(record.state != "finished" for record in records):
            return False
        try:
            report = json.loads((self.folder / "forgetting.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        watched = [source.name for source in self.plan.watched]
        return report["models"] == ["base", *names] and [d for d, m in report["learnt"].items() if m is None] == watched

    def __call__(self, records: list[StageRecord]) -> None:
        """Measure what is new and write the report.

        Args:
            records: The finished stages so far.
        """
        from mmembed.jobs.forgetting_report import forgetting_report, write_report
        from mmembed.training.stages import weights_sha256

        data = self.data.held_out()
        known = [("base", self.base, weights_sha256(self.base))]
        known += [(record.name, record.model, str(record.model_sha256)) for record in records]
        for name, model, weights in known:
            self._measurements.measure(name, weights, lambda model=model: _load(model), data)  # type: ignore[misc]
        learnt = {name: self.data.learnt_in(name) for name in data}
        report = forgetting_report(self._measurements, [name for name, _, _ in known], learnt)
        if records:
            report["leaks"] = {record.name: record.facts.get("leaks", {}) for record in records}
            write_report(report, records[-1].folder)
            self._write_weight_curve(records, data)
            self._write_card(records[-1], self.plan.stages[len(records) - 1], known[-2][0])
        write_report(report, self.folder)

    def _write_weight_curve(self, records: list[StageRecord], data: Mapping[str, Any]) -> None:
        """The metric of every data set between where the stage started and what it learnt."""
        record, plan = records[-1], self.plan.stages[len(records) - 1]
        if not plan.stage.average_curve:
            return
        from mmembed.jobs.forgetting_report import write_weight_curve
        from mmembed.training.stages import weights_sha256
        from mmembed.training.weight_averaging import load_averaged, weights_of

        of_base = plan.stage.average_with == "base" or len(records) == 1
        end, trained = self.base if of_base else records[-2].model, record.folder / TRAINED
        fingerprint = f"{weights_sha256(end)}/{weights_sha256(trained)}"

        def between(alpha: float) -> SentenceTransformer:
            model = _load(trained)
            load_averaged(model, [weights_of(_load(end)), weights_of(model)], [1 - alpha, alpha])
            return model

        points = {}
        for alpha in sorted({0.0, 1.0, *plan.stage.average_curve}):
            points[alpha] = f"{record.name}@{alpha:g}"
            weights = f"{fingerprint}@{alpha:g}"
            self._measurements.measure(points[alpha], weights, lambda alpha=alpha: between(alpha), data)  # type: ignore[misc]
        ends = ("base" if of_base else records[-2].name, f"{record.name}, trained")
        write_weight_curve(self._measurements, points, list(data), record.folder, ends=ends)

    def _write_card(self, record: StageRecord, plan: StagePlan, before: str) -> None:
        """The stage's model card: what it gained on its own data, and where the rest stands."""
        from mmembed.export.card import CardFacts, write_card
        from mmembed.jobs.forgetting_report import METRIC, WAYS

        own = plan.sources[0].name
        names = {way: self._measurements.direction(own, way) for way in WAYS}

        def figures(model: str) -> dict[str, Any]:
            found = {}
            for way, name in names.items():
                metrics = self._measurements.all_metrics(model, own, way)
                count = next(figure["n"] for figure in metrics.values() if isinstance(figure, dict))
                kept = {
                    metric: {key: figure[key] for key in ("mean", "low", "high")}
                    for metric, figure in metrics.items()
                    if isinstance(figure, dict)
                }
                found[name] = {"n": count, "documents": metrics["documents"], **kept}
            return found

        uses = {plan.options.query_use, plan.options.document_use} - {"any"}
        write_card(
            record.model,
            CardFacts(
                name=f"{self.folder.name}-{record.name}",
                inputs=[use for use in ("text", "image", "fused") if use in uses] or ["text", "image", "fused"],
                base_model=self.plan.base.model,
                languages=plan.options.language,
                license=plan.options.license,
                training_data={
                    f"{source.name} pairs": len(self.data.source(source).parts["train"].pairs)
                    for source in plan.sources
                },
                losses=[str(record.settings.get("loss", self.args.loss))],
                hyper_parameters={
                    name: str(record.settings[name])
                    for name in (
                        "learning_rate",
                        "num_train_epochs",
                        "per_device_train_batch_size",
                        "replay",
                        "average",
                        "ema",
                    )
                    if record.settings.get(name) is not None
                },
                description=f"Stage {record.name!r} of a chain; the figures are on the held-out part of {own!r}. What the "
                "chain's other data lost or gained stands in forgetting.md beside the model's folder.",
                results={"before": figures(before), "after": figures(record.name)},
                gains={
                    name: self._measurements.difference(record.name, before, own, way) for way, name in names.items()
                },
                gain_metric=METRIC,
            ),
        )


def _load(folder: Path) -> SentenceTransformer:
    from mmembed.jobs.model_choice import load_named

    return load_named(str(folder))
