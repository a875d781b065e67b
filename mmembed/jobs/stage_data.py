"""The data of a chain: read once, each source under its own name, mixed for training, whole for measuring."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import (
    Dataset,
    are_progress_bars_disabled,
    concatenate_datasets,
    disable_progress_bars,
    enable_progress_bars,
)

from mmembed.data.keys import items_keys
from mmembed.jobs.options import OptionsError
from mmembed.jobs.stage_file import ChainPlan, Source, StagePlan
from mmembed.jobs.training_arguments import measured_use
from mmembed.jobs.training_data import Part, RunData, load_run_data
from mmembed.training.pair_mixture import PairMixture, pairs_with_prefix, replay_rows, with_prefix

if TYPE_CHECKING:
    from mmembed.data.training_pairs import TrainingPairs
    from mmembed.jobs.forgetting_report import HeldOut

logger = logging.getLogger(__name__)


class SourceReader:
    """Reads an item's image by the reader of the source that its id begins with."""

    def __init__(self, readers: dict[str, Any]) -> None:
        self._readers = readers
        self.policy = next(iter(readers.values())).policy

    def read(self, source: Any, id: str) -> Any:
        """One image, as `ImageReader.read`."""
        name = max((name for name in self._readers if id.startswith(f"{name}/")), key=len)
        return self._readers[name].read(source, id=id)


class ChainData:
    """Every source of a chain, read when it is first needed.

    Args:
        plan: The chain.
        folder: The run's folder, where bad images are recorded.
        show_progress_bar: Show bars while reading.
    """

    def __init__(self, plan: ChainPlan, folder: Path, *, show_progress_bar: bool) -> None:
        self.plan, self.folder, self.show = plan, folder, show_progress_bar
        self._read: dict[str, RunData] = {}
        self._pairs: dict[str, TrainingPairs] = {}
        self._held_out: dict[str, HeldOut] = {}

    @cached_property
    def _stage_of(self) -> dict[str, StagePlan]:
        return {source.name: plan for plan in self.plan.stages for source in plan.sources}

    def learnt_in(self, source: str) -> str | None:
        """The stage that trains on a source; None for one that is only watched."""
        return self._stage_of[source].name if source in self._stage_of else None

    def source(self, source: Source) -> RunData:
        """A source's parts, ids and groups prefixed by its name."""
        if source.name not in self._read:
            record = self.folder / "bad_samples" / f"{source.name.replace('/', '+')}.jsonl"
            data = load_run_data(source.options, record_to=record, show_progress_bar=self.show)
            with _no_bars():
                data.parts = {name: _prefixed(part, source.name) for name, part in data.parts.items()}
            self._read[source.name] = data
        return self._read[source.name]

    def has_validation(self, plan: StagePlan) -> bool:
        """Whether one of a stage's sources has a validation part."""
        return any("validation" in self.source(source).parts for source in plan.sources)

    def held_out(self) -> dict[str, HeldOut]:
        """The test part of every source, by its name."""
        from mmembed.jobs.forgetting_report import HeldOut

        sources = [source for plan in self.plan.stages for source in plan.sources] + self.plan.watched
        for source in sources:
            if source.name in self._held_out:
                continue
            data = self.source(source)
            part = data.parts.get("test")
            if part is None:
                raise OptionsError(
                    f"{source.name!r}: no pair falls into its test part, so what is forgotten of it could not be measured; "
                    "give a split column or a test_percent above 0"
                )
            options, plan = source.options, self._stage_of.get(source.name)
            batch = int(str((plan.options.extra if plan else {}).get("per_device_eval_batch_size", 64)))
            self._held_out[source.name] = HeldOut(
                part.queries,
                part.documents,
                part.pairs,
                data.reader,
                measured_use(options.query_use),
                measured_use(options.document_use),
                batch,
            )
        return self._held_out

    def every_train_part(self) -> Part:
        """The training rows of all stages, for a tokenizer that is made for them."""
        parts = [self.source(source).parts["train"] for plan in self.plan.stages for source in plan.sources]
        queries = concatenate_datasets([part.queries.select_columns(["id", "text"]) for part in parts])
        return Part(queries, queries, parts[0].pairs)

    def train_pairs(self, plan: StagePlan, args: Any) -> TrainingPairs:
        """What a stage trains on: its source, or a mixture of its sources and of the stages before."""
        own = {source.name: self._source_pairs(source, plan, args) for source in plan.sources}
        shares = {source.name: source.weight for source in plan.sources}
        if plan.stage.replay:
            replayed = [
                source for earlier in self.plan.stages[: self.plan.stages.index(plan)] for source in earlier.sources
            ]
            whole = sum(shares.values())
            shares = {name: share / whole * (1 - plan.stage.replay) for name, share in shares.items()}
            shares |= {source.name: plan.stage.replay / len(replayed) for source in replayed}
            rows = replay_rows(sum(map(len, own.values())), plan.stage.replay)
            everything = own | {source.name: self._source_pairs(source, plan, args) for source in replayed}
            return PairMixture(everything, shares, rows)
        return PairMixture(own, shares) if len(own) > 1 else next(iter(own.values()))

    def _source_pairs(self, source: Source, plan: StagePlan, args: Any) -> TrainingPairs:
        from mmembed.data.training_pairs import TrainingPairs
        from mmembed.losses.building import loss_row

        options = plan.options
        labels = loss_row(args.loss).labels
        scores = {"scored": labels == "score", "teacher_scores": labels == "scores"}
        key = f"{source.name} {options.query_use} {options.document_use} {options.num_negatives} {scores}"
        if key not in self._pairs:
            part = self.source(source).parts["train"]
            with _no_bars():
                self._pairs[key] = TrainingPairs(
                    part.queries,
                    part.documents,
                    part.pairs,
                    query_use=options.query_use,
                    document_use=options.document_use,
                    num_negatives=options.num_negatives,
                    **scores,
                    show_progress_bar=self.show,
                )
        return self._pairs[key]

    def run_data(self, plan: StagePlan) -> RunData:
        """A stage's parts as stored features and readers see them: `train` holds every row that it trains on."""
        sources = list(plan.sources)
        if plan.stage.replay:
            sources += [s for earlier in self.plan.stages[: self.plan.stages.index(plan)] for s in earlier.sources]
        read = {source.name: self.source(source) for source in sources}
        train = [data.parts["train"] for data in read.values()]
        parts = {"train": train[0] if len(train) == 1 else _together(train)}
        for source in plan.sources:
            found = read[source.name].parts.items()
            parts |= {f"{source.name} {name}": part for name, part in found if name != "train"}
        reader: Any = SourceReader({name: data.reader for name, data in read.items()})
        return RunData(parts, reader, [], [], False)

    def evaluator(self, plan: StagePlan, args: Any, image_features: Any) -> Any:
        """Measures a stage's validation parts together during training; None where there is none."""
        parts = [self.source(s).parts["validation"] for s in plan.sources if "validation" in self.source(s).parts]
        if not parts or str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
            return None
        from mmembed.evaluation.retrieval_evaluator import RetrievalEvaluator

        part = parts[0] if len(parts) == 1 else _together(parts)
        return RetrievalEvaluator(
            part.queries,
            part.documents,
            part.pairs,
            name="validation",
            query_use=measured_use(plan.options.query_use),
            document_use=measured_use(plan.options.document_use),
            ks=plan.options.ks,
            batch_size=args.eval_batch_size,
            reader=self.run_data(plan).reader,
            image_features=image_features,
        )

    def leaks_into(self, plan: StagePlan, pairs: TrainingPairs) -> dict[str, int]:
        """Of each data set, how many held-out images stand byte for byte among what a stage trains on."""
        trained = np.unique(np.concatenate([pairs.query_keys[:, 2], pairs.document_keys[:, 2]]))
        found = {}
        for name, data in self.held_out().items():
            tables = [data.queries] if data.queries is data.documents else [data.queries, data.documents]
            keys = np.unique(np.concatenate([items_keys(table, show_progress_bar=False)[:, 2] for table in tables]))
            shared = int(np.isin(keys[keys != 0], trained).sum())
            if shared:
                found[name] = shared
                logger.warning(
                    "%d held-out images of %s stand in the training data of stage %s: its figures after that stage are "
                    "too good; take them out of the training data",
                    shared,
                    name,
                    plan.name,
                )
        return found


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the bars of `datasets` over each table that is copied; those over images are shown."""
    quiet = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not quiet:
            enable_progress_bars()


def _prefixed(part: Part, name: str) -> Part:
    queries = with_prefix(part.queries, name)
    documents = queries if part.documents is part.queries else with_prefix(part.documents, name)
    return Part(queries, documents, pairs_with_prefix(part.pairs, name))


def _together(parts: list[Part]) -> Part:
    queries = concatenate_datasets([part.queries for part in parts])
    same = all(part.documents is part.queries for part in parts)
    documents = queries if same else concatenate_datasets([part.documents for part in parts])
    kept = ["query_id", "positive_ids", "negative_ids"]
    pairs: Dataset = concatenate_datasets([part.pairs.select_columns(kept) for part in parts])
    return Part(queries, documents, pairs)
