"""How much may be asked at once?"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass


class ServeError(ValueError):
    """A server that cannot be started as it was asked for, with what to do."""


@dataclass(frozen=True)
class ServeLimits:
    """What one request may ask, what may wait, and how long.

    Args:
        max_body_bytes: Longest body of a request.
        max_rows: Inputs of one request, or documents of one reranking.
        max_text_chars: Longest text, in characters; what the model cannot read of it is cut by its tokenizer.
        max_pixels: Largest image, width x height.
        max_results: Largest k of a search.
        max_waiting_rows: Rows of all requests that wait for the model; more are refused with 429.
        max_rows_a_pass: Rows of a forward pass, of one request or of several.
        gather_seconds: How long the first request waits for others to share its pass, while nothing else waits.
        body_seconds: How long a body may take to arrive.
        request_seconds: How long a request may wait and be worked on.
        drain_seconds: How long requests under way are waited for when the server is told to stop.
        max_connections: Open connections; more are refused.

    Raises:
        ServeError: A limit that cannot be meant.

    Example:
        >>> ServeLimits(max_rows=8).max_rows
        8
        >>> ServeLimits(max_rows=0)
        Traceback (most recent call last):
        mmembed.apps.serve.limits.ServeError: max_rows=0; give at least 1
    """

    max_body_bytes: int = 10 << 20
    max_rows: int = 256
    max_text_chars: int = 100_000
    max_pixels: int = 25_000_000
    max_results: int = 1000
    max_waiting_rows: int = 2048
    max_rows_a_pass: int = 32
    gather_seconds: float = 0.002
    body_seconds: float = 30.0
    request_seconds: float = 60.0
    drain_seconds: float = 30.0
    max_connections: int = 1024

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "gather_seconds" else 1 if isinstance(field.default, int) else 0.01
            if not math.isfinite(value) or value < least:
                raise ServeError(f"{field.name}={value}; give at least {least}")
        if self.max_rows > self.max_waiting_rows:
            raise ServeError(
                f"max_rows={self.max_rows} is more than max_waiting_rows={self.max_waiting_rows}: such a request could "
                "never wait; raise the second"
            )
