"""What `mmembed interact` ranks, asks and answers with, made of its options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from mmembed.data.keys import permutation
from mmembed.data.schema import DataError, did_you_mean
from mmembed.images import ImageReader
from mmembed.jobs.data_options import DataOptions
from mmembed.jobs.interact_options import Ask, InteractOptions
from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError
from mmembed.jobs.training_data import read_tables, split_tables

if TYPE_CHECKING:
    from mmembed.embeddings import Embeddings
    from mmembed.interactive.answerers import AttributeAnswerer
    from mmembed.interactive.attribute_concepts import Concept
    from mmembed.interactive.attribute_table import AttributeTable
    from mmembed.interactive.candidates import Sampler
    from mmembed.interactive.questions import Questioner
    from mmembed.interactive.rankers import TextRanker, VectorRanker
    from mmembed.interactive.simulation import Task

# What may differ between two runs of one log: where things go and what is shown of them.
_BESIDE = ("output_dir", "show_progress_bar", "bootstrap_samples", "query", "questioners", "batch_size", "embeddings")


@dataclass
class Candidates:
    """The items that are searched, and those whose attributes may be learnt from.

    Args:
        items: ITEMS.
        known: ITEMS of the training part, or None.
        reader: reads their images.
    """

    items: Dataset
    known: Dataset | None
    reader: ImageReader


def candidates(options: InteractOptions) -> Candidates:
    """Read the items that the options name.

    Args:
        options: where they are, and which part counts.

    Returns:
        The items; nothing of them is encoded yet.

    Raises:
        OptionsError: documents or pairs, which a search among items does not have.
        DataError: a file has an error, or the part has no rows.
    """
    if options.documents or options.pairs:
        raise OptionsError("--documents and --pairs: candidates are the rows of --items; leave them out")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    tables, reader, _ = read_tables(
        options,
        record_to=options.output_dir / "bad_samples.jsonl",
        decode_all=False,
        show_progress_bar=options.show_progress_bar,
    )
    items = tables.queries
    has_split = bool(options.split_column) and options.split_column in items.column_names
    part = options.part if options.part != "auto" else "test" if options.items is None or has_split else "all"
    parts = split_tables(tables, options) if has_split or part != "all" else {}
    name = options.items or "drawn catalogue"
    if part != "all" and part not in parts:
        raise DataError(f"no row falls into the part {part!r}; there are {', '.join(parts) or 'none'}", file=name)
    chosen = items if part == "all" else parts[part].queries
    known = parts["train"].queries if "train" in parts and part not in ("all", "train") else None
    return Candidates(chosen, known, reader)


class Rankers:
    """How the candidates are ranked, and their vectors where a model makes them.

    Args:
        options: of the command.
        found: the candidates.
    """

    def __init__(self, options: InteractOptions, found: Candidates) -> None:
        self.options, self.found = options, found
        self.vectors: Embeddings | None = None
        self._model: Any = None
        self._source: Any = None
        if options.model is None:
            if options.embeddings is not None or options.query_vector != "text":
                raise OptionsError("--embeddings and --query_vector need --model, which encodes the queries")
            return
        if options.document_use == "any":
            raise OptionsError("--document_use any: choose text, image or fused")
        maker = self._encoder(options.model)
        self._model = maker.model
        self._source = maker if options.embeddings is None else self._encoder(str(options.embeddings))
        with as_option_errors():
            self.vectors = self._source.of(found.items, options.document_use)

    def _encoder(self, name: str) -> Any:
        from mmembed.jobs.evaluation_vectors import EvaluationVectors

        options = self.options
        return EvaluationVectors(
            name,
            options.output_dir / "vectors",
            self.found.reader,
            batch_size=options.batch_size,
            show_progress_bar=options.show_progress_bar,
        )

    @property
    def temperature(self) -> float:
        """Of the belief before the first answer."""
        return self.options.temperature or (0.5 if self.vectors is None else 0.05)

    def ranker(self) -> TextRanker | VectorRanker:
        """A ranker; each has a memory of its own."""
        from mmembed.embeddings import Embeddings
        from mmembed.interactive.query_state import caption_text, joined_text, rocchio_turns, slerp_turns
        from mmembed.interactive.rankers import TextRanker, VectorRanker

        options, items = self.options, self.found.items
        text = joined_text if options.query_text == "joined" else caption_text
        if self.vectors is None:
            from mmembed.search.lexical import LexicalIndex
            from mmembed.search.lexical_tokens import tokeniser_for

            texts = [value or "" for value in items["text"][:]]
            with as_option_errors():
                index = LexicalIndex.build(items["id"][:], texts, tokeniser=tokeniser_for(" ".join(texts[:1000])))
            return TextRanker(index, text)
        vector = {"text": None, "slerp": slerp_turns(), "rocchio": rocchio_turns()}[options.query_vector]
        own = self.vectors.vectors[self.vectors.rows(items["id"][:])]
        return VectorRanker(self._model, Embeddings(items["id"][:], own), query_text=text, query_vector=vector)

    def sampler(self) -> Sampler:
        """What is shown with a question."""
        from mmembed.interactive.candidates import (
            cluster_candidates,
            interval_candidates,
            random_candidates,
            top_candidates,
        )

        options = self.options
        window: dict[str, Any] = {"start": options.shown_from, "stop": options.shown_to}
        with as_option_errors():
            if options.sampler == "top":
                last = options.shown_to or options.shown_from + options.num_shown
                return top_candidates(min(options.num_shown, last - options.shown_from), start=options.shown_from)
            if options.sampler == "random":
                return random_candidates(options.num_shown, **window)
            if options.sampler == "interval":
                return interval_candidates(options.num_shown, **window)
            if self.vectors is None:
                raise OptionsError(f"--sampler {options.sampler}: clusters are of vectors; name a --model")
            return cluster_candidates(self.vectors, options.num_shown, member=options.sampler, **window)

    def attributes(self) -> tuple[AttributeTable, list[Concept]]:
        """What the questioner knows of the candidates, and which attributes it may ask about together."""
        from mmembed.interactive.attribute_concepts import attribute_vectors, find_concepts, with_concepts
        from mmembed.interactive.attribute_table import AttributeTable
        from mmembed.interactive.zero_shot_attributes import zero_shot_attributes

        options, found = self.options, self.found
        read: dict[str, Any] = {"min_count": options.min_count, "max_values": options.max_values}
        if options.attribute_source == "metadata":
            table = AttributeTable.from_items(found.items, options.attributes, **read)
        else:
            if self.vectors is None or found.known is None:
                raise OptionsError(
                    "--attribute_source vectors: needs a --model, and a training part of the items to calibrate on"
                )
            known = AttributeTable.from_items(found.known, options.attributes, **read)
            rows = permutation(len(found.known), options.seed, 0)[: options.known_rows].tolist()
            calibrating = found.known.select(sorted(rows))
            known = known.of(calibrating["id"][:])
            with as_option_errors():
                of_known = self._source.of(calibrating, options.document_use)
                # Both together: what is fitted on the known rows holds for all.
                both = _stacked(of_known, self.vectors, calibrating["id"][:], found.items["id"][:])
                told = zero_shot_attributes(
                    self._model, both, known.slots, templates=options.attribute_prompts, known=known
                )
            table = told.of(found.items["id"][:])
        concepts: list[Concept] = []
        if options.largest_concept:
            with as_option_errors():
                points = None if self.vectors is None else attribute_vectors(table, self.vectors)
                concepts = find_concepts(table, points, largest=options.largest_concept)
        return with_concepts(table, concepts), concepts


def _stacked(known: Embeddings, searched: Embeddings, known_ids: list[str], ids: list[str]) -> Embeddings:
    from mmembed.embeddings import Embeddings

    parts = [known.vectors[known.rows(known_ids)], searched.vectors[searched.rows(ids)]]
    return Embeddings([*known_ids, *ids], np.concatenate([np.asarray(part, dtype=np.float32) for part in parts]))


def questioner(options: InteractOptions, way: Ask, table: AttributeTable) -> Questioner:
    """Who asks.

    Args:
        options: of the command.
        way: how a question is chosen.
        table: what is known of the candidates.

    Returns:
        The questioner, which also weighs answers.
    """
    from mmembed.interactive.answer_channel import AnswerChannel
    from mmembed.interactive.attribute_questioner import AttributeQuestioner
    from mmembed.interactive.plain_questioners import PlainQuestioner
    from mmembed.interactive.question_wording import Wording

    with as_option_errors():
        channel = AnswerChannel.of_noise(
            len(table.attributes), error=options.expected_error, unknown=options.expected_unknown
        )
        asks = AttributeQuestioner(
            table,
            channel,
            kinds=options.kinds,
            max_options=options.max_options,
            min_gain=options.min_gain,
            look_ahead=options.look_ahead,
            wording=Wording(options.language, words=options.words),
        )
    return asks if way == "gain" else PlainQuestioner(asks, way)


def answerer(
    options: InteractOptions, found: Candidates, table: AttributeTable, concepts: Sequence[Concept]
) -> AttributeAnswerer:
    """Who answers for the targets of a simulation.

    Args:
        options: of the command.
        found: the candidates.
        table: what the questioner knows, whose attributes are answered about.
        concepts: attributes that may be asked about together.

    Returns:
        The answerer; its source is "held out" where it goes by other annotations than the questioner.
    """
    from mmembed.data.reading import read_items
    from mmembed.interactive.answerers import AttributeAnswerer
    from mmembed.interactive.attribute_concepts import with_concepts
    from mmembed.interactive.attribute_table import AttributeTable

    items = found.items
    if options.answers is not None:
        items = read_items(options.answers, id_column=options.id_column, image_root=options.image_root)
    columns = [slot.name for slot in table.slots if slot.name != "concept"]
    truth = AttributeTable.from_items(items, columns, min_count=1, max_values=10**9)
    lacking = {one for concept in concepts for one in concept if truth.place(one) is None}
    if lacking:
        raise OptionsError(f"--answers lack {sorted(lacking)[:3]}, which concepts name; say --largest_concept 0")
    truth = with_concepts(truth, concepts)
    held_out = options.answers is not None or options.attribute_source == "vectors"
    with as_option_errors():
        return AttributeAnswerer(
            truth,
            source="held out" if held_out else "oracle",
            error=options.answer_error,
            unknown=options.answer_unknown,
            seed=options.seed,
        )


def tasks(options: InteractOptions, found: Candidates, answers: AttributeAnswerer) -> list[Task]:
    """What a simulated person looks for, and asks for first.

    Args:
        options: of the command.
        found: the candidates.
        answers: who answers; only candidates of which it knows something are targets.

    Returns:
        As many tasks as are to be played, drawn by the seed.

    Raises:
        OptionsError: a column that is not there, or fewer targets than dialogues.
    """
    from mmembed.interactive.simulation import Task

    items = found.items.with_format(None)
    known = set(answers.table.ids)
    ids = items["id"][:]
    queries = [_first_words(text, options.query_words) for text in _queries(options, items)]
    rows = [row for row in permutation(len(ids), options.seed, 0).tolist() if ids[row] in known and queries[row]]
    if len(rows) < options.simulate:
        raise OptionsError(
            f"--simulate {options.simulate}: only {len(rows)} items have answers and something to ask for"
        )
    return [Task(ids[row], ids[row], queries[row]) for row in sorted(rows[: options.simulate])]


def _queries(options: InteractOptions, items: Dataset) -> list[str]:
    from mmembed.data.item_fields import ItemFields

    with as_option_errors():
        made = ItemFields(text_template=options.query_template or "{" + (options.query_column or "text") + "}")
    for name in made.text_sources:
        if name not in items.column_names:
            which = "query_template" if options.query_template else "query_column"
            raise OptionsError(f"--{which}: no column {name!r}{did_you_mean(name, items.column_names)}")
    return [made.text_of(row)[0] or "" for row in items.select_columns(list(made.text_sources))]


def _first_words(text: str, words: int | None) -> str:
    return " ".join(text.split()[:words])


def configuration(options: InteractOptions, way: Ask, found: Candidates, rankers: Rankers) -> dict[str, Any]:
    """Whatever the rounds of a log depend on.

    Args:
        options: of the command.
        way: how questions are chosen.
        found: the candidates.
        rankers: their vectors.

    Returns:
        Options by name, and fingerprints of the items and of their vectors.
    """
    told = {field.name: getattr(options, field.name) for field in fields(options) if field.name not in _BESIDE}
    own = {field.name for field in fields(DataOptions)}
    told = {name: value for name, value in told.items() if name not in own} | {"items": options.items}
    rows = hashlib.sha256()
    for row in found.items.remove_columns([name for name in ("image",) if name in found.items.column_names]):
        rows.update(json.dumps(row, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
    vectors = None
    if rankers.vectors is not None:
        vectors = (
            rankers.vectors.manifest.get("model_fingerprint")
            or hashlib.sha256(np.ascontiguousarray(rankers.vectors.vectors[:]).tobytes()).hexdigest()
        )
    return {**told, "way": way, "rows": rows.hexdigest(), "vectors": vectors}
