"""Does a trained questioner ask better than what it was trained from? The same dialogues with each of them, compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mmembed.interactive.attribute_questioner import AttributeQuestioner
    from mmembed.interactive.questions import Answer, Answerer, DialogueState, Question, Questioner
    from mmembed.interactive.session import InteractiveSession
    from mmembed.interactive.simulation import Task


def play_loop(
    session_of: Callable[[Questioner], InteractiveSession],
    tasks: Sequence[Task],
    answerer: Answerer,
    questioners: Mapping[str, Questioner],
    *,
    first: str,
    rounds: int,
    samples: int = 2000,
    seed: int = 0,
    show_progress_bar: bool = True,
) -> dict[str, Any]:
    """Play the same dialogues with several questioners: same targets, answers, candidates, weighing of answers and budget.

    Args:
        session_of: makes the session of a questioner; they differ in nothing else.
        tasks: what is looked for.
        answerer: who answers.
        questioners: by name.
        first: whose BRI is compared with each of the others', paired by target.
        rounds: the budget of questions.
        samples: resamples of the intervals.
        seed: of the noise controls and the resampling.
        show_progress_bar: show a bar.

    Returns:
        "metrics" of each by name; "compared": the BRI of `first` less that of each other (below 0 `first` is better) with its
        95 % interval; "questions": how many different ones were asked; "table" and its caption, as text.
    """
    from mmembed.evaluation.rounds import compare_rounds, measure_rounds, rounds_metrics, rounds_table
    from mmembed.interactive.simulation import play_dialogues
    from mmembed.pages import text_table

    measured, metrics, asked = {}, {}, {}
    for name, questioner in questioners.items():
        session = session_of(questioner)
        ranker = session.ranker
        heard = _Heard(answerer)
        played = play_dialogues(session, tasks, heard, show_progress_bar=show_progress_bar)
        rows = {id: row for row, id in enumerate(ranker.ids)}
        scores = np.stack([np.asarray(ranker.scores(task.query, [])) for task in tasks])
        columns = [rows[task.target_id] for task in tasks]
        ranks = [one.ranks for one in played]
        measured[name] = measure_rounds(ranks, scores, columns, rounds=rounds, seed=seed)
        metrics[name] = rounds_metrics(measured[name], bootstrap_samples=samples, seed=seed)
        asked[name] = len(heard.texts)
    compared = {}
    for name, found in measured.items():
        if name != first:
            difference = compare_rounds(measured[first].ranks, found.ranks, samples=samples, seed=seed)
            compared[name] = {key: float(getattr(difference, key)) for key in ("mean", "low", "high", "p_value", "n")}
    shown = rounds_table(measured, reference=first, samples=samples, seed=seed)
    return {
        "metrics": metrics,
        "first": first,
        "compared": compared,
        "questions": asked,
        "table": f"{text_table(shown.rows, shown.header)}\n\n{shown.caption}",
    }


def loop_over_items(
    given: Mapping[str, Any],
    out: Path,
    models: Mapping[str, Any],
    *,
    dialogues: int,
    rounds: int,
    samples: int,
    quiet: bool,
) -> dict[str, Any]:
    """Dialogues over items of your own, with simulated answers.

    Args:
        given: options of `mmembed interact`: items, attributes, query_column, part, answers, …
        out: folder of the run.
        models: `VisionLanguageModel`s by name, "trained" among them.
        dialogues: how many.
        rounds: questions in each.
        samples: resamples of the intervals.
        quiet: show no bar.

    Returns:
        As of `play_loop`: the models, which choose among questions about what is shown; who asks any of these; and
        `AttributeQuestioner`.
    """
    import json

    from mmembed.interactive.session import InteractiveSession
    from mmembed.interactive.vision_language_questioner import VisionLanguageQuestioner
    from mmembed.jobs import interact_parts
    from mmembed.jobs.interact_options import InteractOptions
    from mmembed.jobs.option_errors import as_option_errors
    from mmembed.jobs.options import parse_options

    words = [
        word
        for name, value in given.items()
        for word in (f"--{name}", value if isinstance(value, str) else json.dumps(value))
    ]
    own = {
        "simulate": dialogues,
        "rounds": rounds,
        "output_dir": out / "loop",
        "kinds": '["yes_no"]',
        "show_progress_bar": not quiet,
    }
    words += [word for name, value in own.items() for word in (f"--{name}", str(value))]
    options = parse_options(InteractOptions, words)
    found = interact_parts.candidates(options)
    rankers = interact_parts.Rankers(options, found)
    table, concepts = rankers.attributes()
    asks: Any = interact_parts.questioner(options, "gain", table)
    answers = interact_parts.answerer(options, found, table, concepts)
    shown = ShownAttributes(asks)

    def session_of(questioner: Questioner) -> InteractiveSession:
        with as_option_errors():
            return InteractiveSession(
                rankers.ranker(),
                questioner,
                likelihood=asks,
                sampler=rankers.sampler(),
                pool=options.pool,
                depth=options.depth,
                temperature=rankers.temperature,
                max_rounds=rounds,
                min_gain=options.min_gain,
                seed=options.seed,
            )

    with_images: dict[str, Any] = {
        name: VisionLanguageQuestioner(
            model, found.items, policy=found.reader.policy, num_shown=options.num_shown, candidates=shown.questions
        )
        for name, model in models.items()
    }
    return play_loop(
        session_of,
        interact_parts.tasks(options, found, answers),
        answers,
        {**with_images, "any of the shown": shown, "attributes": asks},
        first="trained",
        rounds=rounds,
        samples=samples,
        seed=options.seed,
        show_progress_bar=not quiet,
    )


class _Heard:
    """An answerer that remembers which questions it heard."""

    def __init__(self, answerer: Answerer) -> None:
        self.answerer, self.texts = answerer, set[str]()

    def answer(self, target_id: str, question: Any) -> Any:
        self.texts.add(question.text)
        return self.answerer.answer(target_id, question)


class ShownAttributes:
    """Yes-or-no questions about what one of the shown candidates has, and was not asked about; asks any of them, by the seed.

    Args:
        asks: whose attributes and words are used.
    """

    def __init__(self, asks: AttributeQuestioner) -> None:
        self.asks = asks

    def questions(self, state: DialogueState) -> list[Question]:
        """All of them, in the table's order."""
        table = self.asks.table
        held = table.filled(table.rows(list(state.shown or state.ids[:5])))
        asked = {turn.question.attribute for turn in state.turns}
        there = [attribute for attribute, share in zip(table.attributes, held.max(axis=0)) if share >= 0.5]
        return [self.asks.yes_no_question(one, None, {"questioner": "shown"}) for one in there if one not in asked]

    def ask(self, state: DialogueState) -> Question | None:
        """Any of them."""
        found = self.questions(state)
        return found[int(np.random.default_rng(state.seed).integers(len(found)))] if found else None

    def likelihood(self, question: Question, answer: Answer, ids: Sequence[str]) -> NDArray[np.float64]:
        """As of `Likelihood`."""
        return self.asks.likelihood(question, answer, ids)
