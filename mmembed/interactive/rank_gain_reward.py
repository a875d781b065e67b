"""Training by a reward instead of pairs: a question is worth what its answer does to the target's rank (TRL's GRPO)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from mmembed.data.schema import DataError
from mmembed.interactive.candidate_views import CandidateViews
from mmembed.interactive.preference_checks import (
    PreferenceTrainingError,
    check_preference_processor,
    check_target_modules,
)
from mmembed.interactive.preference_rows import prompt_rows, state_prompts
from mmembed.interactive.preference_scores import PreferenceState, score_questions
from mmembed.interactive.question_form import form_fault, is_repeat
from mmembed.interactive.question_prompt import INSTRUCTIONS, ReplyError, read_reply
from mmembed.interactive.questions import Answerer, DialogueState, Likelihood, Question


class RankGainReward:
    """The mean log-rank gain of the question in each reply, as `score_questions` measures it; a fine for no good question.

    Rank gain as a reward: DialogueVPR (2026), which found it above fine-tuning and above larger models.

    Args:
        states: with their targets; replies are to one of them, by its key.
        answerers: who answers, one for each answer seed.
        likelihood: what an answer says of each candidate.
        read: links a question in words to what `likelihood` knows, such as `AttributeReader(table).read`; None: as it is.
        targets: others that could be meant, drawn from the belief.
        no_question: the reward of a reply that holds no single question, or one of bad form, or one that was asked before.
        seed: of the draws of targets.

    Example:
        >>> reward = RankGainReward([], [], None)
        >>> reward([], ["Is it red?"], state=["s"])
        Traceback (most recent call last):
        mmembed.data.schema.DataError: states: no state 's' for a reply to it
    """

    __name__ = "rank_gain"  # as which TRL logs it

    def __init__(
        self,
        states: Iterable[PreferenceState],
        answerers: Sequence[Answerer],
        likelihood: Likelihood,
        *,
        read: Callable[[Question, DialogueState], Question] | None = None,
        targets: int = 5,
        no_question: float = -1.0,
        seed: int = 0,
    ) -> None:
        self.states = {one.key: one for one in states}
        self.answerers, self.likelihood, self.read = list(answerers), likelihood, read
        self.targets, self.no_question, self.seed = targets, no_question, seed
        self._known: dict[tuple[str, str], float] = {}

    def __call__(
        self, prompts: Any, completions: Sequence[Any], *, state: Sequence[str], **_: Any
    ) -> list[float | None]:
        """As TRL calls it: replies and the keys of the states that they are to → rewards."""
        return [self.reward(key, _reply(completion)) for key, completion in zip(state, completions, strict=True)]

    def reward(self, key: str, reply: str) -> float:
        """What one reply is worth.

        Args:
            key: of the state.
            reply: what the model wrote.

        Raises:
            DataError: no such state.
        """
        if key not in self.states:
            raise DataError(f"no state {key!r} for a reply to it", file="states")
        if (key, reply) not in self._known:
            self._known[key, reply] = self._measured(self.states[key], reply)
        return self._known[key, reply]

    def _measured(self, one: PreferenceState, reply: str) -> float:
        try:
            question = read_reply(reply)
        except ReplyError:
            return self.no_question
        asked = [turn.question for turn in one.state.turns]
        if form_fault(question) is not None or is_repeat(question, asked):
            return self.no_question
        if self.read is not None:
            question = self.read(question, one.state)
        scored = score_questions(
            one, [question], self.answerers, self.likelihood, targets=self.targets, gain_weight=0.0, seed=self.seed
        )
        return scored.questions[0].gain


def rank_gain_trainer(
    model: Any,
    processor: Any,
    states: Sequence[PreferenceState],
    views: CandidateViews,
    reward: RankGainReward,
    *,
    output_dir: str,
    num_shown: int = 5,
    instructions: str = INSTRUCTIONS,
    adapter: Any = None,
    **arguments: Any,
) -> Any:
    """TRL's `GRPOTrainer` (Shao et al. 2024, https://huggingface.co/papers/2402.03300) on the prompts of states.

    Args:
        model: a transformers model of images and texts.
        processor: its processor.
        states: what is asked in.
        views: pictures and captions of the candidates.
        reward: of the same states.
        output_dir: folder of the run.
        num_shown: candidates that are seen at most.
        instructions: what the prompt asks for.
        adapter: peft's configuration of an adapter; None trains every weight.
        **arguments: of TRL's `GRPOConfig`.

    Returns:
        The trainer, to call `train` of.

    Raises:
        DataError: no states.
        PreferenceTrainingError: a processor or an adapter with which nothing would be learnt, or a model that TRL cannot
            train by a reward, with what it said.
    """
    from trl import GRPOConfig, GRPOTrainer

    check_preference_processor(processor)
    if adapter is not None:
        check_target_modules(model, adapter.target_modules)
    if not states:
        raise DataError("no states to ask in", file="states")
    on_cpu = bool(arguments.get("use_cpu", not torch.cuda.is_available()))
    fitting: dict[str, Any] = {
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": on_cpu,
        "max_completion_length": 48,
        **({"bf16": False, "gradient_checkpointing": False} if on_cpu else {}),
    }
    try:
        return GRPOTrainer(
            model,
            reward_funcs=[reward],
            args=GRPOConfig(output_dir, **{**fitting, **arguments}),
            train_dataset=prompt_rows(state_prompts(states, views, num_shown=num_shown, instructions=instructions)),
            processing_class=processor,
            peft_config=adapter,
        )
    except (TypeError, NotImplementedError) as error:
        raise PreferenceTrainingError(
            f"TRL cannot train a {type(model).__name__} by a reward: {str(error).splitlines()[0]:.300}; use pairs (DPO)"
        ) from error


def _reply(completion: Any) -> str:
    """The text of a reply: a string, or messages whose content is one or is made of blocks."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    if isinstance(content, str):
        return content
    return "".join(block.get("text") or "" for block in content)
