"""One search that asks back: a query, then question after answer, and a better ranking after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmembed.data.keys import pick
from mmembed.data.schema import DataError
from mmembed.interactive.answer_reading import read_answer
from mmembed.interactive.belief import normalised, prior, weighed
from mmembed.interactive.candidates import Sampler, top_candidates
from mmembed.interactive.questions import Answer, DialogueState, Likelihood, Question, Questioner, Turn
from mmembed.interactive.rankers import Ranker
from mmembed.search.lexical import best_rows

#: Why a dialogue asks no more.
Stop = Literal["success", "confident", "uninformative", "budget"]
#: Which answers change the belief over the pool.
Believed = Literal["all", "no", "none"]


class InteractiveSession:
    """A search that asks back: how candidates are ranked, what is asked, and when it stops.

    One session serves any number of dialogues, each begun by `start`. In each round the candidates are scored by what was
    said so far, the best `depth` of them are weighed by the answers (Bayes), and the questioner asks about the `pool` that is
    then the best. A dialogue stops when its target is found, when the belief is sure, when no question tells anything, or
    when the budget is spent.

    Args:
        ranker: scores all candidates by the query and the turns, such as `VectorRanker` or `TextRanker`.
        questioner: asks, such as `AttributeQuestioner`.
        likelihood: what an answer says of each candidate; None: the questioner's own, where it has one.
        sampler: which candidates are shown with a question; None: the best five.
        pool: candidates that a question is chosen for, the best by the belief.
        depth: candidates that answers are weighed over, the best by their scores; all others keep their order behind them.
        temperature: of the belief before the first answer, in units of the scores, see `belief.fit_temperature`.
        max_rounds: the budget of questions.
        confidence: stop when the best `confident_top` candidates hold this share of the belief; None: never.
        confident_top: how many candidates that are.
        min_gain: a question that scores below this is not asked; questions without a score always are.
        believed: which answers change the belief: "all"; "no", where the ranker reads the others in the text; "none".
        seed: of every draw.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> from mmembed.interactive.attribute_questioner import AttributeQuestioner
        >>> from mmembed.interactive.attribute_table import AttributeTable, Slot
        >>> from mmembed.interactive.rankers import TextRanker
        >>> from mmembed.search.lexical import LexicalIndex
        >>> index = LexicalIndex.build(["a", "b", "c"], ["mug", "mug", "hat"])
        >>> table = AttributeTable(index.ids, [Slot("colour", ("red", "blue"))], [np.array([0, 1, 1])])
        >>> dialogue = InteractiveSession(TextRanker(index), AttributeQuestioner(table)).start("a mug")
        >>> dialogue.question.text, dialogue.question.options
        ('What is its colour?', ('blue', 'red', 'something else'))
        >>> dialogue.answer("blue")
        >>> dialogue.ids(2), dialogue.stopped
        (['b', 'a'], 'uninformative')
    """

    def __init__(
        self,
        ranker: Ranker,
        questioner: Questioner,
        *,
        likelihood: Likelihood | None = None,
        sampler: Sampler | None = None,
        pool: int = 500,
        depth: int = 10_000,
        temperature: float = 0.05,
        max_rounds: int = 10,
        confidence: float | None = None,
        confident_top: int = 1,
        min_gain: float = 1e-3,
        believed: Believed = "all",
        seed: int = 0,
    ) -> None:
        if pool < 1 or depth < 1 or max_rounds < 0 or confident_top < 1 or not temperature > 0:
            raise ValueError(
                f"pool={pool}, depth={depth}, max_rounds={max_rounds}, confident_top={confident_top}, "
                f"temperature={temperature}; at least 1, 1, 0 and 1, and above 0"
            )
        if believed not in ("all", "no", "none") or (confidence is not None and not 0 < confidence <= 1):
            raise ValueError(f"believed={believed!r}, confidence={confidence}; all, no or none, and from 0 to 1")
        if not len(ranker.ids):
            raise ValueError("no candidates to rank")
        self.ranker, self.questioner = ranker, questioner
        own = questioner if hasattr(questioner, "likelihood") else None
        self.likelihood: Any = likelihood if likelihood is not None else own
        self.sampler = sampler or top_candidates(5)
        self.depth = min(depth, len(ranker.ids))
        self.pool, self.temperature, self.max_rounds = min(pool, self.depth), temperature, max_rounds
        self.confidence, self.confident_top, self.min_gain = confidence, confident_top, min_gain
        self.believed, self.seed = believed, seed
        self.rows = {id: row for row, id in enumerate(ranker.ids)}
        order = sorted(range(len(ranker.ids)), key=ranker.ids.__getitem__)
        self.place = np.empty(len(order), dtype=np.int64)  # candidates of one score stand in the order of their ids
        self.place[order] = np.arange(len(order))

    def start(
        self,
        query: str,
        *,
        key: str = "",
        questioner: Questioner | None = None,
        target_id: str | None = None,
        success_at: int | None = None,
        turns: Sequence[Turn] = (),
    ) -> Dialogue:
        """Begin a dialogue, or go on with one.

        Args:
            query: what is asked for.
            key: names the dialogue; its draws depend on it.
            questioner: asks in this dialogue instead of the session's.
            target_id: what is looked for, where that is known, as in a simulation.
            success_at: stop when the target stands among so many; needs `target_id`.
            turns: what was asked and answered already.

        Returns:
            The dialogue, with its first question.

        Raises:
            DataError: a target that is no candidate.
            ValueError: an empty query.
        """
        if not isinstance(query, str) or not query.strip():
            raise ValueError(f"query={query!r}; say what is looked for")
        if target_id is not None and target_id not in self.rows:
            raise DataError(f"the target {target_id!r} is none of the {len(self.rows)} candidates", file="session")
        if success_at is not None and (target_id is None or success_at < 1):
            raise ValueError(f"success_at={success_at} needs a target_id, and is at least 1")
        return Dialogue(self, query, key, questioner or self.questioner, target_id, success_at, turns)


class Dialogue:
    """A dialogue of an `InteractiveSession`: its turns, its ranking, and its next question.

    Made by `InteractiveSession.start`.

    Args:
        session: how it goes.
        query, key, questioner, target_id, success_at, turns: as of `InteractiveSession.start`.
    """

    def __init__(
        self,
        session: InteractiveSession,
        query: str,
        key: str,
        questioner: Questioner,
        target_id: str | None,
        success_at: int | None,
        turns: Sequence[Turn],
    ) -> None:
        self.session, self.query, self.key = session, query, key
        self.questioner, self.target_id, self.success_at = questioner, target_id, success_at
        self.turns: list[Turn] = list(turns)
        self.question: Question | None = None
        self.shown: list[str] = []
        self.stopped: Stop | None = None
        self.scores: NDArray[np.floating] = np.zeros(0)
        self._weighed: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._weighed_ids: tuple[str, ...] = ()
        self._logs: NDArray[np.float64] = np.zeros(
            0
        )  # of the belief over these, in their order, after the first `_heard` turns
        self._heard = 0
        self._advance()

    def answer(self, answer: Answer | str) -> None:
        """Take the answer to the question, rank again, and ask the next one.

        Args:
            answer: an answer, or what a person said, see `read_answer`.

        Raises:
            ValueError: the dialogue has stopped.
        """
        if self.question is None:
            raise ValueError(f"the dialogue has stopped ({self.stopped}); there is no question to answer")
        if isinstance(answer, str):
            answer = read_answer(answer, self.question, source="person")
        self.turns.append(Turn(self.question, answer))
        self._advance()

    @property
    def state(self) -> DialogueState:
        """What a questioner is told."""
        seed = pick(2**31, seed=self.session.seed, epoch=len(self.turns), id=self.key, salt="dialogue")
        pool = self.ids(self.session.pool)[: len(self.rows)]
        belief = self.belief[: len(pool)]
        return DialogueState(self.query, tuple(self.turns), pool, belief / belief.sum(), tuple(self.shown), seed)

    def ids(self, k: int) -> list[str]:
        """The best k candidates, best first.

        Args:
            k: how many.

        Returns:
            Ids; all candidates where there are fewer.
        """
        ids, rows = self.session.ranker.ids, self.rows
        if k > len(rows):
            behind = best_rows(self._outside(), k - len(rows), self.session.place, above=-np.inf)
            rows = np.concatenate([rows, behind])
        return [ids[row] for row in rows[:k].tolist()]

    def rank_of(self, id: str) -> float:
        """The rank of a candidate, from 1; of those that tie with it half are taken to stand before it.

        Args:
            id: a candidate.

        Returns:
            The rank among all candidates: by the belief where answers are weighed, by the scores behind that.

        Raises:
            DataError: an id that is no candidate.
        """
        row = self.session.rows.get(id)
        if row is None:
            raise DataError(f"{id!r} is none of the {len(self.session.rows)} candidates", file="session")
        weighed = np.flatnonzero(self.rows == row)
        if len(weighed):
            own = self.belief[weighed[0]]
            equal = np.isclose(self.belief, own, rtol=1e-9, atol=0)
            return 1 + float((~equal & (self.belief > own)).sum()) + (float(equal.sum()) - 1) / 2
        outside = self._outside()
        own = self.scores[row]
        before = len(self.rows)
        if own == -np.inf:  # not retrieved: in the middle of all that were not
            before += int(np.isfinite(outside).sum())
            return before + (len(self.scores) - before + 1) / 2
        equal = float((outside == own).sum())
        return before + 1 + float((outside > own).sum()) + (equal - 1) / 2

    def _outside(self) -> NDArray[np.floating]:
        """The scores, with −inf for those that answers are weighed over."""
        outside = np.array(self.scores)
        outside[self.rows] = -np.inf
        return outside

    def _advance(self) -> None:
        self._rank()
        self.question, self.shown, self.stopped = None, [], None
        session = self.session
        if (
            self.success_at is not None
            and self.target_id is not None
            and self.rank_of(self.target_id) <= self.success_at
        ):
            self.stopped = "success"
        elif session.confidence is not None and self.belief[: session.confident_top].sum() >= session.confidence:
            self.stopped = "confident"
        elif len(self.turns) >= session.max_rounds:
            self.stopped = "budget"
        if self.stopped:
            return
        state = self.state
        self.shown = session.sampler(state.ids, state.probabilities, state.seed)
        question = self.questioner.ask(replace(state, shown=tuple(self.shown)))
        if question is None or (question.score is not None and question.score < session.min_gain):
            self.stopped, self.shown = "uninformative", []
        else:
            self.question = question

    def _rank(self) -> None:
        session = self.session
        scores = np.asarray(session.ranker.scores(self.query, self.turns))
        if scores.shape != (len(session.rows),) or np.isnan(scores).any():
            raise DataError(f"scores of shape {scores.shape} for {len(session.rows)} candidates", file="session")
        if not np.array_equal(scores, self.scores):  # else what earlier answers say of the same candidates still holds
            self.scores = scores
            self._weighed = best_rows(scores, session.depth, session.place, above=-np.inf)
            self._weighed_ids = tuple(session.ranker.ids[row] for row in self._weighed.tolist())
            if not len(self._weighed):
                raise DataError("the ranker retrieved no candidate for the query", file="session")
            with np.errstate(divide="ignore"):
                self._logs, self._heard = np.log(prior(scores[self._weighed], session.temperature)), 0
        for turn in self.turns[self._heard :]:
            likelihood = self._likelihood(turn)
            if likelihood is not None:
                self._logs = weighed(self._logs, likelihood)
        self._heard = len(self.turns)
        belief = normalised(self._logs)
        order = np.lexsort((np.arange(len(belief)), -belief))
        #: Rows of `ranker.ids` that answers are weighed over, best first, and the belief over them.
        self.rows, self.belief = self._weighed[order], belief[order]

    def _likelihood(self, turn: Turn) -> NDArray[np.float64] | None:
        session = self.session
        believed = session.believed == "all" or (session.believed == "no" and turn.answer.label == "no")
        if session.likelihood is None or turn.answer.label == "unknown" or not believed:
            return None
        return session.likelihood.likelihood(turn.question, turn.answer, self._weighed_ids)
