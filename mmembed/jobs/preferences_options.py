"""What `mmembed preferences` can be told. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmembed.jobs.data_options import option
from mmembed.jobs.interact_options import InteractOptions


@dataclass
class PreferencesOptions(InteractOptions):
    """Play dialogues, try several questions where the target is not found yet, and pair the better with the worse ones.

    Candidates, rankers, answers and what is asked are those of `mmembed interact`; without items the drawn catalogue is used,
    its training part. With rank_log or dpo_json pairs are made of what another system tried instead. The pairs are parquet
    files in TRL's format.
    """

    # whose questions are tried
    asks: Literal["gain", "half", "frequent", "random", "vision_language"] = option(
        "gain", "who asks the questions that are tried; gain: its best, its worst and some between"
    )
    questioner_model: str | None = option(None, "vision-language model that asks: a folder or a Hub name")
    questioner_adapter: str | None = option(None, "folder of an adapter on it")
    questions: int = option(5, "questions tried in a state")
    after_rounds: list[int] = option([0], "how many questions are answered before, such as [0, 2]")
    asked_before: Literal["gain", "half", "frequent", "random"] = option("random", "who asked those")
    captions: str | None = option(
        None, "column of what a shown candidate is called, for the prompt; null: pictures alone"
    )
    max_pixels: int = option(512 * 512, "a larger picture is made smaller")

    # how they are scored
    top_k: int = option(10, "a target among so many is found already")
    max_rank: float | None = option(None, "a target further down is left out; null: the whole pool")
    answer_seeds: int = option(2, "how often each question is answered")
    targets: int = option(20, "others that could be meant, drawn from the belief")
    gain_weight: float = option(0.25, "share of the expected information gain in a score; the rest is log-rank gain")

    # which pairs are kept
    min_chosen: float = option(math.log(1.5), "least score of the chosen question, in nats")
    min_margin: float = option(math.log(2.0), "least difference of the two scores")
    max_rejected: float = option(0.1, "largest score of the rejected question")
    min_agreeing_seeds: int = option(2, "answer seeds that must be there, and all agree")
    max_words: int = option(25, "the longest question")
    max_length_difference: int = option(8, "of the two, in words")
    max_per_state: int = option(2, "pairs of one state")
    max_per_template: int | None = option(
        1000, "pairs whose chosen question asks about one attribute; null: any number"
    )
    balance_texts: bool = option(False, "as many pairs of two texts one way as the other, so that texts tell nothing")

    # what another system tried
    rank_log: Path | None = option(
        None, "JSON lines: a question and the target's rank before and after it, a line each"
    )
    dpo_json: Path | None = option(None, "JSON array of pairs with the ranks after each of their two questions")
    fields: dict[str, str] = option({}, "what a field is called there, such as {rank_after: new_rank}; see the README")

    # what comes out
    held_out_percent: int = option(20, "hundredths of the target images that are held out")
    evaluation_targets: Path | None = option(
        None,
        "file of ids of what the questioner will be measured on, one a line or a JSON array; a target among them is refused",
    )
    simulate: int = option(500, "dialogues that are played, on targets drawn by the seed")
    part: Literal["auto", "train", "validation", "test", "all"] = option(
        "auto", "part of the items; auto: train where a split column is there or the catalogue is drawn, else all"
    )
    output_dir: Path = option(
        Path("runs/preferences"), "train.parquet, test.parquet, report.md, report.json, tried.jsonl"
    )
    first_rank: int = option(1, "what the best rank is called there, 1 or 0")
    image_folder: Path | None = option(None, "folder below which the images of rank_log and dpo_json lie")
