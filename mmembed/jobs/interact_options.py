"""What `mmembed interact` can be told. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmembed.jobs.data_options import DataOptions, option

Ask = Literal["gain", "half", "frequent", "random"]


@dataclass
class InteractOptions(DataOptions):
    """Look for something by answering questions, or let a simulated person do so and measure how well it goes.

    Candidates are the rows of items, their attributes the columns beside id, text and image. Without items the drawn
    catalogue is used. With simulate, several ways to ask are played on the same targets and printed with noise controls.
    """

    # the dialogue
    query: str | None = option(None, "what you look for; null: it is asked for")
    simulate: int = option(0, "dialogues that a simulated person plays, on targets drawn by the seed; 0: you answer")
    part: Literal["auto", "train", "validation", "test", "all"] = option(
        "auto",
        "part of the items to search; auto: test where a split column is there or the catalogue is drawn, else all",
    )
    rounds: int = option(10, "questions at most")
    confidence: float | None = option(None, "stop when the best candidate holds this share of the belief; null: never")
    success_at: int | None = option(None, "stop a simulated dialogue when its target is among so many; null: play on")
    min_gain: float = option(1e-3, "stop when no question is expected to tell so many nats")

    # who ranks
    model: str | None = option(
        None,
        "model of texts and document_use: folder, Hub name, package:NAME/FOLDER; null: the words of the items' texts",
    )
    embeddings: Path | None = option(
        None, "folder of the items' vectors under the model, also of those that calibrate; null: they are encoded"
    )
    batch_size: int = option(64, "rows encoded at once")
    query_text: Literal["query", "joined"] = option(
        "query", "what is searched with: the query alone, or joined with what was answered, other than no"
    )
    query_vector: Literal["text", "slerp", "rocchio"] = option(
        "text",
        "with a model: the vector of that text, or the query's turned towards each answer's, or their mean added",
    )
    pool: int = option(500, "candidates that a question is chosen for")
    depth: int = option(10_000, "candidates that answers are weighed over")
    temperature: float | None = option(
        None, "of the belief before the first answer, in units of the scores; null: .05 with a model, .5 for words"
    )

    # what is asked
    attributes: list[str] | None = option(
        None, "columns that are asked about, or column.key; null: all with values that items share"
    )
    attribute_source: Literal["metadata", "vectors"] = option(
        "metadata",
        "where the questioner knows them from: the items' columns, or their vectors, by the attributes' words, "
        "calibrated on the columns of the training part",
    )
    attribute_prompts: dict[str, str] = option(
        {},
        'by column, how a value is put into words for attribute_source vectors, such as {baseColour: "{value} colour"}',
    )
    known_rows: int = option(2000, "rows of the training part that calibrate, drawn by the seed")
    min_count: int = option(2, "a value of fewer items is not asked about")
    max_values: int = option(200, "values of a column, the most frequent")
    questioners: list[Ask] = option(
        ["gain", "half", "frequent", "random"],
        "ways to choose a question: expected gain, or the attribute of half, of most, or any; the first asks you",
    )
    kinds: list[Literal["yes_no", "choice"]] = option(
        ["yes_no", "choice"],
        "yes-or-no questions, questions among several values, or both; the plain ways ask yes or no",
    )
    max_options: int = option(6, "values that one question names, beside something else")
    largest_concept: int = option(0, "also ask about up to so many attributes at once that go together; 0: never")
    look_ahead: int = option(0, "yes-or-no questions that are looked at two steps ahead")
    expected_error: float = option(0.05, "share of wrong answers that the questioner reckons with")
    expected_unknown: float = option(0.05, "share of questions without an answer that it reckons with")
    language: Literal["en", "zh", "ru"] = option("en", "language of the questions")
    words: dict[str, str] = option({}, "what a column, or a value as column=value, is called in questions")

    # what is shown with a question
    sampler: Literal["top", "random", "interval", "medoid", "lowest_entropy"] = option(
        "top", "which candidates: the best, any, at equal distances, or one of each cluster (with a model)"
    )
    num_shown: int = option(5, "how many")
    shown_from: int = option(0, "ranks to leave out, so that 40 shows ranks from 41 on")
    shown_to: int | None = option(None, "last rank; null: to the end of the pool")

    # who answers in a simulation, and what is asked for first
    answers: str | None = option(
        None, "ITEMS with the attributes that answers go by, such as other annotations; null: the items' own columns"
    )
    answer_error: float = option(0.0, "share of answers that are wrong")
    answer_unknown: float = option(0.0, "share of questions that get no answer")
    query_column: str | None = option(None, "column with what a person asks for first; null: the text")
    query_template: str | None = option(None, "template over columns instead, e.g. '{gender} {articleType}'")
    query_words: int | None = option(3, "its first words that are kept; null: all")

    # what comes out
    seed: int = option(0, "seed of every draw")
    bootstrap_samples: int = option(2000, "resamples for the intervals")
    output_dir: Path = option(Path("runs/interact"), "rounds as JSON lines and CSV, metrics.json, vectors")
    show_progress_bar: bool = option(True, "show progress bars")
