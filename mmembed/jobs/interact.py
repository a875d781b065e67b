"""`mmembed interact`: a search that asks back; you answer, or a simulated person does and it is measured."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.interact_options import InteractOptions
from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError, parse_options

if TYPE_CHECKING:
    from mmembed.interactive.session import Dialogue, InteractiveSession
    from mmembed.jobs.interact_parts import Candidates, Rankers

_SHOWN = 10  # candidates that are listed at the end
_LEAVE = ("q", "quit", "exit", "stop")


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `interact`.

    Returns:
        0 when the dialogue has ended, or the dialogues are played and measured.

    Raises:
        OptionsError: If an option is unknown or of the wrong type, or the items do not allow what is asked for.
        DataError: If a file has a fault, or a log in output_dir is of other options.

    Example:
        >>> main(["--simulate", "-1"])
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: --simulate: found -1, wanted at least 0
    """
    options = parse_options(InteractOptions, argv, prog="mmembed interact", description=InteractOptions.__doc__ or "")
    run(options)
    return 0


def run(options: InteractOptions) -> dict[str, dict[str, float]]:
    """Play one dialogue with you, or many with a simulated person.

    Args:
        options: What is searched, who ranks, what is asked, who answers.

    Returns:
        The metrics of each way to ask; nothing where you answered.
    """
    _check(options)
    from mmembed.jobs.interact_parts import Rankers, candidates

    logging.getLogger("bm25s").propagate = False  # it sets its own level, and tells of every index
    found = candidates(options)
    rankers = Rankers(options, found)
    if options.simulate:
        return _simulated(options, found, rankers)
    _with_you(options, found, rankers)
    return {}


def _check(options: InteractOptions) -> None:
    """Refuse what cannot be meant, before anything heavy is imported or read."""
    least = {"simulate": 0, "rounds": 0, "num_shown": 0, "shown_from": 0, "batch_size": 1, "min_count": 1}
    for name, bound in least.items():
        if getattr(options, name) < bound:
            raise OptionsError(f"--{name}: found {getattr(options, name)}, wanted at least {bound}")
    if not options.questioners or len(set(options.questioners)) < len(options.questioners):
        raise OptionsError(f"--questioners: found {options.questioners}, wanted each way to ask at most once")
    if options.largest_concept == 1 or options.largest_concept < 0:
        raise OptionsError("--largest_concept: a concept has at least 2 attributes; 0 asks about none")
    if options.query_column is not None and options.query_template is not None:
        raise OptionsError("--query_column and --query_template: give one of them")
    if options.output_dir.is_file():
        raise OptionsError(f"--output_dir: {options.output_dir} is a file; name a folder")


def _session(options: InteractOptions, rankers: Rankers, asks: Any) -> InteractiveSession:
    from mmembed.interactive.session import InteractiveSession

    with as_option_errors():
        return InteractiveSession(
            rankers.ranker(),
            asks,
            sampler=rankers.sampler(),
            pool=options.pool,
            depth=options.depth,
            temperature=rankers.temperature,
            max_rounds=options.rounds,
            confidence=options.confidence,
            min_gain=options.min_gain,
            # what the text or the vector holds already is not weighed a second time
            believed="all" if options.query_text == "query" and options.query_vector == "text" else "no",
            seed=options.seed,
        )


# --- a simulated person ------------------------------------------------------------------------------------------


def _simulated(options: InteractOptions, found: Candidates, rankers: Rankers) -> dict[str, dict[str, float]]:
    import numpy as np

    from mmembed.evaluation.rounds import RoundMeasurement, measure_rounds, rounds_metrics, rounds_table
    from mmembed.interactive.rankers import VectorRanker
    from mmembed.interactive.session_log import SessionLog, write_rounds_csv
    from mmembed.interactive.simulation import play_dialogues
    from mmembed.jobs.interact_parts import answerer, configuration, questioner, tasks
    from mmembed.pages import text_table
    from mmembed.whole_files import write_whole

    table, concepts = rankers.attributes()
    answers = answerer(options, found, table, concepts)
    targets = tasks(options, found, answers)
    ranker = rankers.ranker()
    if isinstance(ranker, VectorRanker):
        ranker.encode_ahead([task.query for task in targets])
    rows = {id: row for row, id in enumerate(ranker.ids)}
    scores = np.stack([ranker.scores(task.query, []) for task in targets])
    measured: dict[str, RoundMeasurement] = {}
    metrics: dict[str, dict[str, float]] = {}
    for way in options.questioners:
        session = _session(options, rankers, questioner(options, way, table))
        path = options.output_dir / f"rounds-{way}.jsonl"
        with SessionLog(path, configuration(options, way, found, rankers)) as log:
            played = play_dialogues(
                session,
                targets,
                answers,
                success_at=options.success_at,
                log=log,
                show_progress_bar=options.show_progress_bar,
            )
        write_rounds_csv(path, path.with_suffix(".csv"))
        columns = [rows[task.target_id] for task in targets]
        ranks = [one.ranks for one in played]
        measured[way] = measure_rounds(ranks, scores, columns, rounds=options.rounds, seed=options.seed)
        metrics[way] = rounds_metrics(measured[way], bootstrap_samples=options.bootstrap_samples, seed=options.seed)
    text = json.dumps(metrics, indent=1) + "\n"
    write_whole(options.output_dir / "metrics.json", lambda new: Path(new).write_text(text, encoding="utf-8"))
    shown = rounds_table(
        measured, reference=options.questioners[0], samples=max(1, options.bootstrap_samples), seed=options.seed
    )
    about = (
        f"{len(found.items):,} candidates, {len(table.attributes):,} attributes, {len(targets):,} targets; "
        f"answers: {answers.source}, {options.answer_error:.0%} wrong, {options.answer_unknown:.0%} none"
    )
    sys.stdout.write(f"\n{about}\n\n{text_table(shown.rows, shown.header)}\n\n{shown.caption}\n")
    sys.stdout.write(f"\nrounds          {options.output_dir}/rounds-*.jsonl and .csv\n")
    sys.stdout.write(f"numbers         {options.output_dir / 'metrics.json'}\n")
    return metrics


# --- you ---------------------------------------------------------------------------------------------------------


def _with_you(options: InteractOptions, found: Candidates, rankers: Rankers) -> None:
    from mmembed.interactive.session_log import Round, SessionLog
    from mmembed.jobs.interact_parts import configuration, questioner

    query = options.query if options.query is not None else _heard("What are you looking for? ")
    if query is None or not query.strip():
        raise OptionsError("--query: say what you look for")
    way = options.questioners[0]
    table, _ = rankers.attributes()
    session = _session(options, rankers, questioner(options, way, table))
    path = options.output_dir / "dialogue.jsonl"
    path.unlink(missing_ok=True)
    with SessionLog(path, configuration(options, way, found, rankers)) as log:
        dialogue = session.start(query, key="you")
        number = 0
        while True:
            turn = dialogue.turns[-1] if dialogue.turns else None
            top = dialogue.ids(_SHOWN)
            shown = dialogue.shown
            log.write(Round("you", None, query, number, turn, shown, None, None, top, dialogue.stopped))
            _list(found, dialogue, shown)
            if dialogue.question is None:
                break
            choices = f" [{' / '.join(dialogue.question.options)}]" if dialogue.question.options else ""
            said = _heard(f"{dialogue.question.text}{choices} (q ends) ")
            if said is None or said.strip().lower() in _LEAVE:
                break
            dialogue.answer(said)
            number += 1
    sys.stdout.write(f"\nThe best now ({dialogue.stopped or 'you left'}):\n")
    _list(found, dialogue, dialogue.ids(_SHOWN))
    sys.stdout.write(f"\nrounds          {path}\n")


def _heard(prompt: str) -> str | None:
    """A line from the terminal; None at its end."""
    sys.stdout.write(prompt)
    sys.stdout.flush()
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def _list(found: Candidates, dialogue: Dialogue, ids: Sequence[str]) -> None:
    from mmembed.interactive.question_wording import plain_line

    rows = {id: row for row, id in enumerate(found.items["id"][:])}
    belief = dict(zip(dialogue.ids(len(dialogue.belief)), dialogue.belief.tolist(), strict=False))
    for id in ids:
        text = plain_line(found.items[rows[id]]["text"] or "")
        sys.stdout.write(f"  {100 * belief.get(id, 0.0):5.1f} %  {plain_line(id)}  {text}\n")
