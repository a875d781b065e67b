"""`mmembed preferences`: play dialogues, try questions where the target is not found yet, and write pairs to train on."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError, parse_options, save_config
from mmembed.jobs.preferences_options import PreferencesOptions

if TYPE_CHECKING:
    from mmembed.interactive.preference_filters import PairRule
    from mmembed.interactive.preference_scores import PreferenceState
    from mmembed.interactive.preferences import Preferences
    from mmembed.interactive.questions import Questioner
    from mmembed.jobs.interact_parts import Candidates

_RULE = (
    "min_chosen", "min_margin", "max_rejected", "min_agreeing_seeds", "max_words", "max_length_difference", "max_per_state",
    "max_per_template", "balance_texts",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `preferences`.

    Returns:
        0 when the pairs and the report are written.

    Raises:
        OptionsError: If an option is unknown or of the wrong type, or no pair came of it.
        DataError: If a file has a fault.
        TargetLeakError: If a target is also one of the evaluation set; the exit status is 3 then.

    Example:
        >>> main(["--simulate", "-1"])
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: --simulate: found -1, wanted at least 1
    """
    options = parse_options(
        PreferencesOptions, argv, prog="mmembed preferences", description=PreferencesOptions.__doc__ or ""
    )
    run(options)
    return 0


def run(options: PreferencesOptions) -> Preferences:
    """Make pairs and say what became of everything else.

    Args:
        options: What is searched, whose questions are tried, how they are scored, and which pairs are kept.

    Returns:
        The pairs of both parts, and the figures of the report.
    """
    _check(options)
    from mmembed.interactive.preference_report import preference_table, write_preference_report
    from mmembed.interactive.preference_rows import write_preference_rows

    out = options.output_dir
    out.mkdir(parents=True, exist_ok=True)
    save_config(
        out / "config.yaml", {field.name: _plain(getattr(options, field.name)) for field in dataclasses.fields(options)}
    )
    foreign = options.rank_log is not None or options.dpo_json is not None
    found = _of_other_systems(options) if foreign else _played(options)
    report = write_preference_report(out, found.figures)
    sys.stdout.write(f"\n{preference_table(found.figures)}\n\nreport   {report}\n")
    if not len(found.train):
        raise OptionsError(
            f"no pair to train on: {report} says what dropped them. Try more questions in a state, loosen min_margin, or play more "
            "dialogues"
        )
    write_preference_rows(found.test, out / "test.parquet")
    write_preference_rows(found.train, out / "train.parquet")
    sys.stdout.write(f"pairs    {out / 'train.parquet'}, {out / 'test.parquet'}\n")
    return found


def _check(options: PreferencesOptions) -> None:
    """Refuse what cannot be meant, before anything heavy is imported or read."""
    least = {"simulate": 1, "questions": 2, "answer_seeds": 1, "top_k": 0, "targets": 0, "num_shown": 1, "rounds": 0}
    for name, bound in least.items():
        if getattr(options, name) < bound:
            raise OptionsError(f"--{name}: found {getattr(options, name)}, wanted at least {bound}")
    if (options.asks == "vision_language") != (options.questioner_model is not None):
        raise OptionsError("--asks vision_language and --questioner_model go together")
    if options.rank_log is not None and options.dpo_json is not None:
        raise OptionsError("--rank_log and --dpo_json: give one of them")
    if (options.rank_log or options.dpo_json) and options.image_folder is None and options.items is None:
        raise OptionsError(
            "--image_folder: name the folder below which the images of that file lie, or --items with their ids"
        )
    if options.answer_seeds < options.min_agreeing_seeds and options.rank_log is None and options.dpo_json is None:
        raise OptionsError(
            f"--min_agreeing_seeds {options.min_agreeing_seeds} of --answer_seeds {options.answer_seeds}: ask fewer to agree, or "
            "answer more often"
        )


def rule_of(options: PreferencesOptions) -> PairRule:
    """When two questions are a pair."""
    from mmembed.interactive.preference_filters import PairRule

    with as_option_errors():
        return PairRule(**{name: getattr(options, name) for name in _RULE})


# --- dialogues that are played ------------------------------------------------------------------------------------


def _played(options: PreferencesOptions) -> Preferences:
    from mmembed.interactive.attribute_questioner import AttributeQuestioner
    from mmembed.interactive.candidate_views import CandidateViews
    from mmembed.interactive.preference_log import TriedQuestions
    from mmembed.interactive.preference_states import image_keys
    from mmembed.interactive.preferences import build_preference_pairs
    from mmembed.jobs import interact_parts

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    rule = rule_of(options)
    options = dataclasses.replace(options, part="train" if options.part == "auto" else options.part)
    found = interact_parts.candidates(options)
    rankers = interact_parts.Rankers(options, found)
    table, concepts = rankers.attributes()
    likelihood: Any = interact_parts.questioner(options, "gain", table)
    assert isinstance(likelihood, AttributeQuestioner)
    answers = [
        interact_parts.answerer(dataclasses.replace(options, seed=options.seed + number), found, table, concepts)
        for number in range(options.answer_seeds)
    ]
    keys = image_keys(found.items, show_progress_bar=options.show_progress_bar)
    states = _states(options, found, rankers, table, answers[0])
    views = CandidateViews(
        found.items, policy=found.reader.policy, caption_column=options.captions, max_pixels=options.max_pixels
    )
    shared = {
        **interact_parts.configuration(options, "gain", found, rankers),
        "way": options.asks,
        "rows of pairs": None,  # what is only done with the scores afterwards is no part of them
    }
    scored_by = {
        name: value
        for name, value in shared.items()
        if name not in (*_RULE, "held_out_percent", "captions", "max_pixels")
    }
    with TriedQuestions(options.output_dir / "tried.jsonl", json.loads(json.dumps(scored_by, default=str))) as log:
        return build_preference_pairs(
            states,
            _tried(options, found, table, likelihood),
            answers,
            likelihood,
            views,
            rule=rule,
            questions=options.questions,
            top_k=options.top_k,
            max_rank=options.max_rank,
            targets=options.targets,
            gain_weight=options.gain_weight,
            test_percent=options.held_out_percent,
            salt=options.split_salt,
            target_keys=keys,
            evaluation_ids=evaluation_ids(options.evaluation_targets),
            num_shown=options.num_shown,
            log=log,
            seed=options.seed,
            show_progress_bar=options.show_progress_bar,
        )


def _states(
    options: PreferencesOptions, found: Candidates, rankers: Any, table: Any, answers: Any
) -> list[PreferenceState]:
    from mmembed.interactive.preference_states import dialogue_states
    from mmembed.interactive.session import InteractiveSession
    from mmembed.jobs.interact_parts import questioner, tasks

    with as_option_errors():
        session = InteractiveSession(
            rankers.ranker(),
            questioner(options, options.asked_before, table),
            sampler=rankers.sampler(),
            pool=options.pool,
            depth=options.depth,
            temperature=rankers.temperature,
            max_rounds=max(options.after_rounds, default=0),
            min_gain=options.min_gain,
            seed=options.seed,
        )
        return dialogue_states(
            session,
            tasks(options, found, answers),
            answers,
            after_rounds=options.after_rounds,
            show_progress_bar=options.show_progress_bar,
        )


def _tried(options: PreferencesOptions, found: Candidates, table: Any, likelihood: Any) -> Questioner:
    """Whose questions are tried."""
    from mmembed.jobs.interact_parts import questioner

    if options.asks != "vision_language":
        return questioner(options, options.asks, table)
    from mmembed.interactive.question_attribute import AttributeReader
    from mmembed.interactive.question_choice import QuestionChoice
    from mmembed.interactive.question_wording import Wording
    from mmembed.interactive.vision_language_loading import load_vision_language
    from mmembed.interactive.vision_language_questioner import VisionLanguageQuestioner
    from mmembed.jobs.model_choice import resolve_name

    wording = Wording(options.language, words=options.words)
    return VisionLanguageQuestioner(
        load_vision_language(resolve_name(str(options.questioner_model)), adapter=options.questioner_adapter),
        found.items,
        policy=found.reader.policy,
        caption_column=options.captions,
        max_pixels=options.max_pixels,
        num_shown=options.num_shown,
        samples=1,  # of each seed one; all of them are tried
        choice=QuestionChoice(reader=AttributeReader(table, wording), likelihood=likelihood, by="first"),
    )


def evaluation_ids(path: Path | None) -> list[str]:
    """The ids of a file, one a line, or of a JSON array.

    Args:
        path: the file; None: no ids.

    Raises:
        DataError: it cannot be read, or holds something else.

    Example:
        >>> path = getfixture("tmp_path") / "ids.txt"
        >>> _ = path.write_text("a.jpg\\n\\nb.jpg\\n")
        >>> evaluation_ids(path)
        ['a.jpg', 'b.jpg']
    """
    if path is None:
        return []
    from mmembed.data.formats import json_document, json_records
    from mmembed.data.schema import DataError, shown

    if json_records.first_character(str(path)) == "[":
        values = json_document.read(path)
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise DataError(f"found {shown(value)}, expected an id", file=path, row=row)
        return list(values)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError("not UTF-8; save the file as UTF-8", file=path) from None
    return [line.strip() for line in lines if line.strip()]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


# --- what other systems tried -------------------------------------------------------------------------------------


def _of_other_systems(options: PreferencesOptions) -> Preferences:
    """Pairs of a rank log or of pairs with ranks, by the same rule."""
    from mmembed.interactive.foreign_preferences import read_preference_json, read_rank_log
    from mmembed.interactive.preference_states import image_keys
    from mmembed.interactive.preferences import pairs_of_scored

    rule = rule_of(options)
    with as_option_errors():
        if options.rank_log is not None:
            read = read_rank_log(options.rank_log, fields=options.fields, first_rank=options.first_rank)
        else:
            read = read_preference_json(options.dpo_json or "", fields=options.fields, first_rank=options.first_rank)
    items, policy = _shown_items(options, read)
    from mmembed.interactive.candidate_views import CandidateViews

    with_images = items.select_columns(
        [name for name in ("id", "text", "image", "group") if name in items.column_names]
    )
    keys = image_keys(with_images, show_progress_bar=options.show_progress_bar)
    return pairs_of_scored(
        read.scored,
        read.states,
        CandidateViews(items, policy=policy, max_pixels=options.max_pixels, caption_column=options.captions),
        rule=rule,
        given=len(read.states),
        left_out=read.left_out.counts,
        test_percent=options.held_out_percent,
        salt=options.split_salt,
        target_keys=keys,
        evaluation_ids=evaluation_ids(options.evaluation_targets),
        num_shown=options.num_shown,
        top_k=options.top_k,
        max_rank=options.max_rank,
        settings={"records": read.records},
    )


def _shown_items(options: PreferencesOptions, read: Any) -> tuple[Any, Any]:
    """ITEMS of what was shown, with the policy under which its images are read."""
    from datasets import Dataset

    from mmembed.data.schema import IMAGE_FEATURE, DataError
    from mmembed.images import ImagePolicy, resolve_under

    if options.items is not None:
        from mmembed.jobs import interact_parts

        found = interact_parts.candidates(dataclasses.replace(options, part="all"))
        return found.items, found.reader.policy
    root = options.image_folder
    assert root is not None  # _check
    shown = dict.fromkeys(id for one in read.states for id in one.state.shown)
    if not shown:
        raise DataError(
            "no record names the images that were shown; pairs are of images", file=options.rank_log or options.dpo_json
        )
    targets = dict.fromkeys(one.target_id for one in read.states if one.target_id not in shown)
    there = [id for id in targets if Path(root, id).is_file()]  # by whose bytes two targets are known to be one
    rows = [{"id": id, "image": {"bytes": None, "path": resolve_under(root, id)}} for id in [*shown, *there]]
    return Dataset.from_list(rows).cast_column("image", IMAGE_FEATURE), ImagePolicy(root=root)
