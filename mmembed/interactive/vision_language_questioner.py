"""Questions from a vision-language model that runs here and sees the candidates."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image

from mmembed.images import ImagePolicy
from mmembed.interactive.answerability import answerable_from_dialogue
from mmembed.interactive.candidate_views import CandidateViews, without_blocks
from mmembed.interactive.question_choice import QuestionChoice
from mmembed.interactive.question_prompt import INSTRUCTIONS, ReplyError, question_messages, read_reply
from mmembed.interactive.questions import Answer, DialogueState, Question
from mmembed.interactive.vision_language_loading import load_vision_language
from mmembed.interactive.vision_language_model import VisionLanguageModel
from mmembed.models.folder_checks import ModelError
from mmembed.prompt_safety import neutralised

#: How a model weighs questions that it is given: "log_probability": ln P(question) a token; "implicit_reward": ln of how much
#: likelier its adapter has made the question, which is what preference training moves (Rafailov et al. 2023).
Weight = Literal["log_probability", "implicit_reward"]

_MOST_TOLD = 20


class VisionLanguageQuestioner:
    """Asks what a vision-language model asks that sees candidates and the dialogue.

    Several replies are drawn. What is no single question, falls out by its form, was asked before, is known already or, where
    that is checked, can be answered from the dialogue alone is dropped and counted; of the others one is chosen. Where none is
    left it asks nothing: there is no question of its own that it falls back on.

    Given `candidates`, the model writes nothing and asks the question among them that it finds best, so that a small model
    can be trained and compared where it cannot yet write.

    The messages are those of `question_messages`, which preference data are made of. Texts of the data are fenced, control
    tokens in them taken apart; pictures are read by mmembed's policy; the chat template runs in transformers' sandbox.

    Args:
        model: the model, or the folder or name of one, see `load_vision_language`, which also puts an adapter on top.
        items: ITEMS with the candidates.
        policy: what may be read as an image; with paths, its `root`.
        caption_column: the column of what a candidate is called, such as "text", where the model is to read it.
        max_pixels: a larger picture is made smaller before the processor sees it.
        num_shown: candidates that are seen at most.
        samples: how many replies are drawn.
        temperature: 0: the likeliest reply alone.
        top_p: replies are drawn from the likeliest tokens that together have this probability.
        max_new_tokens: the longest reply.
        choice: filters and the choice; None: the first drawn question that is good by its form and new.
        check_dialogue: ask the model which questions the dialogue answers already; small models seldom say that one does not.
        differ_in: what the candidates of a state may differ in, as the prompt tells it; None: nothing is told.
        candidates: questions to choose from, such as `AttributeQuestioner(…).gains`; None: the model writes its own.
        weigh: how it chooses among them.
        instructions: what the prompt asks for; a model that was trained on others is asked with those.

    Raises:
        ModelError: no such model, or "implicit_reward" of one without an adapter.
        ValueError: a number out of range.

    Attributes:
        dropped: how many replies and questions were dropped, by reason.

    Example:
        >>> import tempfile
        >>> from mmembed.interactive.small_vision_language import build_small_vision_language
        >>> folder = build_small_vision_language(tempfile.mkdtemp(), ["Is it red?"])
        >>> items = Dataset.from_dict({"id": ["a"], "image": [{"bytes": None, "path": None}], "text": ["a red mug"]})
        >>> questioner = VisionLanguageQuestioner(folder, items, caption_column="text", samples=2, max_new_tokens=4)
        >>> question = questioner.ask(DialogueState("a mug", (), ("a",), np.ones(1)))
        >>> question is None, sum(questioner.dropped.values())  # random weights ask nothing
        (True, 2)
    """

    def __init__(
        self,
        model: VisionLanguageModel | str | os.PathLike[str],
        items: Dataset,
        *,
        policy: ImagePolicy | None = None,
        caption_column: str | None = None,
        max_pixels: int = 512 * 512,
        num_shown: int = 5,
        samples: int = 5,
        temperature: float = 1.0,
        top_p: float = 0.95,
        max_new_tokens: int = 48,
        choice: QuestionChoice | None = None,
        check_dialogue: bool = False,
        differ_in: Callable[[DialogueState], Sequence[str]] | None = None,
        candidates: Callable[[DialogueState], Sequence[Question]] | None = None,
        weigh: Weight = "log_probability",
        instructions: str = INSTRUCTIONS,
    ) -> None:
        if samples < 1 or num_shown < 0 or weigh not in ("log_probability", "implicit_reward"):
            raise ValueError(f"samples={samples}, num_shown={num_shown}, weigh={weigh!r}; see the documentation")
        self.model = model if isinstance(model, VisionLanguageModel) else load_vision_language(model)
        if weigh == "implicit_reward" and not hasattr(self.model.model, "disable_adapter"):
            raise ModelError(
                f"weigh='implicit_reward' compares {self.model.name} with what lies below its adapter; it has none"
            )
        self.views = CandidateViews(
            items, policy=policy or ImagePolicy(), caption_column=caption_column, max_pixels=max_pixels
        )
        self.num_shown, self.choice, self.check_dialogue = num_shown, choice or QuestionChoice(), check_dialogue
        self.drawn: dict[str, Any] = {
            "samples": samples,
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": max_new_tokens,
        }
        self.differ_in, self.candidates, self.weigh = differ_in, candidates, weigh
        self.instructions = instructions
        self.dropped: Counter[str] = Counter()

    def ask(self, state: DialogueState) -> Question | None:
        """The next question, or None where none survives the filters.

        Args:
            state: the dialogue; where it shows no candidates, the best `num_shown` are seen.

        Returns:
            The question, with the expected gain in nats for `score` where the choice measures one, and how it came about in
            `provenance`.

        Raises:
            ModelError: a prompt longer than the model has positions for.
        """
        seen, pictures, messages = self._seen(state)
        about = {
            "questioner": "vision-language",
            **self.model.record,
            "seed": state.seed,
            "shown": list(seen.shown),
            "pictures": len(pictures),
        }
        if self.candidates is not None:
            return self._preferred(self.candidates(state), messages, pictures, about)
        replies = self.model.replies(messages, pictures, seed=state.seed, **self.drawn)
        asked: list[Question] = []
        unreadable = 0
        for reply in replies:
            try:
                asked.append(read_reply(reply, special_tokens=self.model.control_tokens))
            except ReplyError:
                unreadable += 1
        answerable = functools.partial(answerable_from_dialogue, self.model) if self.check_dialogue else None
        chosen = self.choice.choose(seen, asked, answerable=answerable)
        self.dropped.update(chosen.record["dropped"])
        self.dropped["unreadable"] += unreadable
        return chosen.told({**about, **self.drawn, "unreadable": unreadable})

    def likelihood(self, question: Question, answer: Answer, ids: Sequence[str]) -> NDArray[np.float64]:
        """What an answer says of each candidate by the choice's likelihood, so that a session weighs answers by it too."""
        own = self.choice.likelihood
        return np.ones(len(ids)) if own is None else own.likelihood(question, answer, ids)

    def weights(self, state: DialogueState, questions: Sequence[Question]) -> NDArray[np.float64]:
        """How good the model finds questions in a state.

        Args:
            state: the dialogue.
            questions: n questions.

        Returns:
            float64 (n,), higher is better, by `weigh`.
        """
        _, pictures, messages = self._seen(state)
        return self._weights(messages, pictures, questions)

    def _seen(self, state: DialogueState) -> tuple[DialogueState, list[Image.Image], list[dict[str, Any]]]:
        seen, pictures, captions = self.views.shown(state, self.num_shown)
        options = self.differ_in(state) if self.differ_in is not None else ()
        (message,) = question_messages(
            seen,
            captions=captions,
            options=options,
            special_tokens=self.model.control_tokens,
            instructions=self.instructions,
        )
        return seen, pictures, [{"role": "user", "content": without_blocks(message["content"], len(pictures))}]

    def _weights(
        self, messages: list[dict[str, Any]], pictures: list[Image.Image], questions: Sequence[Question]
    ) -> NDArray[np.float64]:
        texts = [neutralised(question.text, self.model.control_tokens) for question in questions]
        sums, tokens = self.model.log_probabilities(messages, pictures, texts)
        if self.weigh == "implicit_reward":
            return sums - self.model.log_probabilities(messages, pictures, texts, with_adapter=False)[0]
        return sums / np.maximum(tokens, 1)

    def _preferred(
        self,
        questions: Sequence[Question],
        messages: list[dict[str, Any]],
        pictures: list[Image.Image],
        about: dict[str, Any],
    ) -> Question | None:
        if not questions:
            return None
        weights = self._weights(messages, pictures, questions)
        best = int(np.argmax(weights.round(6)))
        order = np.argsort(-weights, kind="stable")[:_MOST_TOLD]
        weighed = [[questions[place].text, float(weights[place])] for place in order.tolist()]
        told = {**about, "weigh": self.weigh, "given": len(questions), "weighed": weighed}
        return dataclasses.replace(questions[best], provenance={**told, **questions[best].provenance, **about})
