"""Questions from a language model behind an OpenAI-compatible address."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from mmembed.chat_endpoint import BudgetSpentError, ChatEndpoint, EndpointError
from mmembed.mining.question_filters import Question
from mmembed.mining.question_prompts import chat_messages, read_reply

__all__ = ["BudgetSpentError", "EndpointError", "EndpointGenerator"]

logger = logging.getLogger(__name__)


class EndpointGenerator:
    """Asks the chat completions of an OpenAI-compatible server for questions; passages leave this machine for `base_url` alone.

    The server is spoken to by a `ChatEndpoint`: each reply is kept, the budget of calls is hard, the key is in no file.

    Args:
        base_url: as in "http://127.0.0.1:8000/v1"; "/chat/completions" is added. There is no default.
        model: the server's name of the model.
        max_calls: how many requests may be made in all.
        cache_dir: folder of replies.
        api_key: sent as a bearer token; None sends none.
        max_passage_characters: how much of a passage is sent.
        max_new_tokens: how long a reply may be, in tokens.
        temperature: 0 is the likeliest reply.
        retries: how often a request that failed in passing (a timeout, too many requests, a server's error) is made again.
        timeout: seconds that one request may take.
        num_threads: how many requests are under way at once.
        sleep: waits between them; for tests.

    Raises:
        ValueError: an address other than http or https, or a number out of range.

    Example:
        >>> EndpointGenerator("file:///etc/passwd", "m", max_calls=1, cache_dir="cache")
        Traceback (most recent call last):
        ValueError: base_url 'file:///etc/passwd' is no http or https address of a server; a key is given as api_key
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        max_calls: int,
        cache_dir: str | os.PathLike,
        api_key: str | None = None,
        max_passage_characters: int = 6000,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        retries: int = 3,
        timeout: float = 60.0,
        num_threads: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if num_threads < 1:
            raise ValueError(f"num_threads={num_threads}; at least one asks")
        self._endpoint = ChatEndpoint(
            base_url,
            model,
            max_calls=max_calls,
            cache_dir=cache_dir,
            api_key=api_key,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            retries=retries,
            timeout=timeout,
            sleep=sleep,
        )
        self.url = self._endpoint.url
        self.model = model
        self.max_calls = max_calls
        self.max_passage_characters = max_passage_characters
        self.name = f"endpoint 1, {self.url}, {model}, {max_passage_characters} characters, {max_new_tokens} tokens, {temperature}"
        self._threads = num_threads

    @property
    def calls(self) -> int:
        """How many requests were made."""
        return self._endpoint.calls

    def generate(self, passages: Sequence[str], num_questions: int) -> list[list[Question]]:
        """Ask for questions.

        Args:
            passages: texts.
            num_questions: how many of each at most.

        Returns:
            For each passage its questions; none where the reply was not the JSON asked for, which is logged at level info.

        Raises:
            BudgetSpentError: `max_calls` requests were made; replies so far are in the cache.
            EndpointError: the server refused, or failed more often than `retries`.
        """

        def ask(passage: str) -> list[Question]:
            reply = self._endpoint.reply(chat_messages(passage[: self.max_passage_characters], num_questions))
            try:
                return read_reply(reply, num_questions)
            except ValueError as error:
                logger.info("no question from the passage %r: %s", passage[:40], error)
                return []

        with ThreadPoolExecutor(self._threads) as pool:
            futures = [pool.submit(ask, passage) for passage in passages]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
