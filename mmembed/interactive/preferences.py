"""Dialogues that have not found their target → pairs of a better and a worse question, for preference training."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from tqdm.auto import tqdm

from mmembed.data.schema import DataError
from mmembed.data.splits import split_bucket
from mmembed.interactive.candidate_views import CandidateViews
from mmembed.interactive.preference_filters import PairRule, PreferencePair, select_pairs
from mmembed.interactive.preference_log import TriedQuestions
from mmembed.interactive.preference_report import preference_figures
from mmembed.interactive.preference_rows import preference_rows
from mmembed.interactive.preference_scores import (
    PreferenceState,
    ScoredState,
    belief_ranks,
    score_questions,
    several_questions,
)
from mmembed.interactive.question_prompt import INSTRUCTIONS
from mmembed.interactive.questions import Answerer, DialogueState, Likelihood, Questioner


class TargetLeakError(DataError):
    """A target of training pairs also stands in the evaluation set; the command line exits with status 3."""

    exit_status = 3


@dataclass(frozen=True)
class Preferences:
    """Pairs of questions in two parts that share no target's image.

    Args:
        train: rows of `mmembed.interactive.preference_rows.PAIR_FEATURES`.
        test: the same, of other targets.
        figures: how many states, questions and pairs there were, and what each filter dropped; plain JSON.
    """

    train: Dataset
    test: Dataset
    figures: dict[str, Any]


def build_preference_pairs(
    states: Iterable[PreferenceState],
    questioner: Questioner,
    answerers: Sequence[Answerer],
    likelihood: Likelihood,
    views: CandidateViews,
    *,
    rule: PairRule | None = None,
    questions: int = 5,
    top_k: int = 10,
    max_rank: float | None = None,
    targets: int = 20,
    gain_weight: float = 0.25,
    test_percent: int = 20,
    salt: str = "split",
    target_keys: Mapping[str, str] | None = None,
    evaluation_ids: Iterable[str] = (),
    num_shown: int = 5,
    differ_in: Callable[[DialogueState], Sequence[str]] | None = None,
    instructions: str = INSTRUCTIONS,
    log: TriedQuestions | str | os.PathLike[str] | None = None,
    seed: int = 0,
    show_progress_bar: bool = True,
) -> Preferences:
    """Try several questions in each state and pair those that led to the target with those that did not.

    States are used whose target is in the pool and not yet among the best `top_k`. Each question is answered with several
    seeds, for the target and for others drawn from the belief; its score is the mean log-rank gain mixed with the expected
    information gain (`score_questions`; Mazzaccara et al. 2024, https://arxiv.org/abs/2406.17453, pair by the latter
    alone). A pair is a question that scores high with one that does not (`PairRule`).

    Args:
        states: dialogues with their targets; a target may stand in several.
        questioner: whatever asks; it is asked `questions` times with seeds of its own.
        answerers: who answers in place of a person, one for each answer seed.
        likelihood: what an answer says of each candidate.
        views: pictures and captions of the candidates.
        rule: when two questions are a pair, and which pairs are kept.
        questions: how many are tried in a state.
        top_k: a target that stands among so many is found already.
        max_rank: a target that stands further down is left out; None: the whole pool.
        targets: others that could be meant, drawn from the belief, with replacement.
        gain_weight: share of the expected information gain in a score.
        test_percent: hundredths of the target images that are held out.
        salt: another salt is another split.
        target_keys: by target id, what makes two targets the same image, such as a hash of its bytes; None: the ids.
        evaluation_ids: targets, or their keys, of whatever the trained questioner will be measured on.
        num_shown: candidates that are seen with a question, at most.
        differ_in: what the candidates of a state may differ in, as the prompt tells it.
        instructions: what the prompt asks for.
        log: file of what was tried, from which an interrupted run goes on; or one that is open.
        seed: of the draws of targets.
        show_progress_bar: show a bar.

    Returns:
        The pairs and their figures.

    Raises:
        DataError: two states of one key.
        TargetLeakError: a target is also one of the evaluation set.
        ValueError: a number out of range.

    Example:
        >>> import numpy as np
        >>> from mmembed.interactive.answerers import AttributeAnswerer
        >>> from mmembed.interactive.attribute_questioner import AttributeQuestioner
        >>> from mmembed.interactive.attribute_table import AttributeTable, Slot
        >>> ids = list("abcdefgh")
        >>> table = AttributeTable(ids, [Slot("colour", ("red", "blue")), Slot("lid", ("cork", "glass"))],
        ...     [np.array([0, 0, 0, 0, 0, 0, 1, 1]), np.array([0, 1, 1, 1, 1, 1, 1, 1])])
        >>> asks = AttributeQuestioner(table, kinds=("yes_no",))
        >>> state = DialogueState("a jar", (), ids, np.array([0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.06, 0.04]))
        >>> views = CandidateViews(Dataset.from_dict({"id": ids, "text": ids}), caption_column="text")
        >>> pairs = build_preference_pairs([PreferenceState("s", "h", state)], asks, [AttributeAnswerer(table)] * 2, asks, views,
        ...     rule=PairRule(min_margin=0.1, max_rejected=2.0), top_k=3, targets=0, test_percent=0, show_progress_bar=False)
        >>> [pairs.train[0][side][0]["content"][0]["text"] for side in ("chosen", "rejected")]
        ['Is its colour blue?', 'Is its lid cork?']
    """
    rule = rule or PairRule()
    if questions < 2 or top_k < 0 or not 0 <= test_percent < 100:
        raise ValueError(f"questions={questions}, top_k={top_k}, test_percent={test_percent}; from 2, 0 and 0 to 99")
    if len(answerers) < rule.min_agreeing_seeds:
        raise ValueError(
            f"{len(answerers)} answerers for a rule that asks {rule.min_agreeing_seeds} answer seeds to agree; give one "
            "answerer for each seed, or a rule with min_agreeing_seeds=1"
        )
    given = list(states)
    keys = Counter(one.key for one in given)
    if len(keys) < len(given):
        raise DataError(
            f"two states have the key {keys.most_common(1)[0][0]!r}; each has one of its own", file="states"
        )
    names = dict(target_keys or {})
    check_no_leak([one.target_id for one in given], evaluation_ids, names)

    configuration = {
        "questions": questions,
        "targets": targets,
        "gain_weight": gain_weight,
        "seeds": len(answerers),
        "seed": seed,
    }
    left_out: Counter[str] = Counter()
    tried: list[ScoredState] = []
    with _opened(log, configuration) as kept:
        for one in tqdm(given, desc="trying questions", unit="state", disable=not show_progress_bar):
            reason = why_left_out(one, top_k=top_k, max_rank=max_rank)
            if reason is not None:
                left_out[reason] += 1
                continue
            scored = kept.states.get(one.key) if kept is not None else None
            if scored is None or scored.target_id != one.target_id:
                asked = several_questions(questioner, one.state, questions)
                scored = score_questions(
                    one, asked, answerers, likelihood, targets=targets, gain_weight=gain_weight, seed=seed
                )
                if kept is not None:
                    kept.write(scored)
            tried.append(scored)
    return pairs_of_scored(
        tried,
        given,
        views,
        rule=rule,
        given=len(given),
        left_out=left_out,
        test_percent=test_percent,
        salt=salt,
        target_keys=names,
        num_shown=num_shown,
        differ_in=differ_in,
        instructions=instructions,
        settings={**configuration, "top_k": top_k, "max_rank": max_rank},
    )


def pairs_of_scored(
    scored: Sequence[ScoredState],
    states: Sequence[PreferenceState],
    views: CandidateViews,
    *,
    rule: PairRule,
    given: int | None = None,
    left_out: Mapping[str, int] | None = None,
    top_k: int = 0,
    max_rank: float | None = None,
    test_percent: int = 20,
    salt: str = "split",
    target_keys: Mapping[str, str] | None = None,
    evaluation_ids: Iterable[str] = (),
    num_shown: int = 5,
    differ_in: Callable[[DialogueState], Sequence[str]] | None = None,
    instructions: str = INSTRUCTIONS,
    settings: Mapping[str, Any] | None = None,
) -> Preferences:
    """Select the pairs of questions that were tried and scored already, here or elsewhere.

    Args:
        scored: what was tried.
        states: the dialogues of these states, and possibly others.
        views: pictures and captions of the candidates.
        rule: when two questions are a pair, and which are kept.
        given: states that there were at first; None: those that are scored.
        left_out: states in which nothing was tried, by reason.
        top_k, max_rank, test_percent, salt, target_keys, evaluation_ids, num_shown, differ_in, instructions: as of
            `build_preference_pairs`.
        settings: told in the figures.

    Returns:
        The pairs and their figures.

    Raises:
        TargetLeakError: a target is also one of the evaluation set.
    """
    names = dict(target_keys or {})
    check_no_leak([one.target_id for one in scored], evaluation_ids, names)
    out = Counter(left_out or {})
    tried = []
    for one in scored:
        if reason := _rank_fault(one.rank, top_k=top_k, max_rank=max_rank):
            out[reason] += 1
        else:
            tried.append(one)
    asked = {one.key: [turn.question for turn in one.state.turns] for one in states}
    pairs, dropped = select_pairs(tried, rule, asked=asked)

    def part(held_out: bool) -> list[PreferencePair]:
        key_of = [names.get(pair.state.target_id, pair.state.target_id) for pair in pairs]
        return [pair for pair, key in zip(pairs, key_of) if (split_bucket(key, salt=salt) < test_percent) == held_out]

    train, test = part(False), part(True)
    figures = preference_figures(
        given=len(scored) if given is None else given,
        left_out=out,
        tried=tried,
        dropped=dropped,
        train=train,
        test=test,
        names=names,
    )
    figures["settings"] = {**(settings or {}), "rule": dataclasses.asdict(rule)}
    shared: dict[str, Any] = {
        "num_shown": num_shown,
        "differ_in": differ_in,
        "instructions": instructions,
        "target_keys": names,
    }
    return Preferences(
        preference_rows(train, states, views, **shared), preference_rows(test, states, views, **shared), figures
    )


def why_left_out(one: PreferenceState, *, top_k: int, max_rank: float | None = None) -> str | None:
    """Why nothing is tried in a state; None where something is.

    Args:
        one: the state.
        top_k: a target among so many is found already.
        max_rank: the rank behind which a target is left out; None: none.

    Returns:
        "target not in the pool", "target found already", "target too far down", or None.
    """
    ids = list(one.state.ids)
    if one.target_id not in ids:
        return "target not in the pool"
    rank = float(belief_ranks(one.state.probabilities)[ids.index(one.target_id)])
    return _rank_fault(rank, top_k=top_k, max_rank=max_rank)


def _rank_fault(rank: float, *, top_k: int, max_rank: float | None) -> str | None:
    if rank <= top_k:
        return "target found already"
    if max_rank is not None and rank > max_rank:
        return "target too far down"
    return None


def check_no_leak(targets: Iterable[str], evaluation_ids: Iterable[str], target_keys: Mapping[str, str]) -> None:
    """Refuse targets that the trained questioner will also be measured on.

    Args:
        targets: ids.
        evaluation_ids: ids or keys.
        target_keys: by id, what makes two targets the same image.

    Raises:
        TargetLeakError: with how many there are, and the first.

    Example:
        >>> check_no_leak(["a"], ["b"], {"a": "7", "b": "7"})
        Traceback (most recent call last):
        mmembed.interactive.preferences.TargetLeakError: states: 1 of 1 targets is also in the evaluation set, first 'a'; ...
    """
    kept_out = {target_keys.get(id, id) for id in evaluation_ids}
    distinct = list(dict.fromkeys(targets))
    shared = [id for id in distinct if id in kept_out or target_keys.get(id, id) in kept_out]
    if shared:
        raise TargetLeakError(
            f"{len(shared):,} of {len(distinct):,} targets {'is' if len(shared) == 1 else 'are'} also in the evaluation set, "
            f"first {shared[0]!r}; a questioner that was trained on them cannot be measured there: take other targets",
            file="states",
        )


@contextlib.contextmanager
def _opened(log: TriedQuestions | str | os.PathLike[str] | None, configuration: Mapping[str, Any]) -> Any:
    if log is None or isinstance(log, TriedQuestions):
        yield log
        return
    with TriedQuestions(log, configuration) as opened:
        yield opened
