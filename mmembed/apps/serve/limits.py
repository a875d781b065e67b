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
        max_waiting_pixels: Pixels of all images that wait for the model, decoded; more are refused with 429.
        max_waiting_bytes: Bytes of all bodies that are being read or worked on; more are refused with 429.
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
    max_waiting_pixels: int = 250_000_000
    max_waiting_bytes: int = 256 << 20
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
        for one, all_of_them in (
            ("max_rows", "max_waiting_rows"),
            ("max_pixels", "max_waiting_pixels"),
            ("max_body_bytes", "max_waiting_bytes"),
        ):
            if getattr(self, one) > getattr(self, all_of_them):
                raise ServeError(
                    f"{one}={getattr(self, one)} is more than {all_of_them}={getattr(self, all_of_them)}: such a request "
                    "could never wait; raise the second"
                )


class Budget:
    """How much of a thing all requests hold at once.

    Args:
        most: So much at most.

    Example:
        >>> budget = Budget(10)
        >>> budget.take(8), budget.take(3), budget.held
        (True, False, 8)
        >>> budget.give(8); budget.held
        0
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    def take(self, amount: int) -> bool:
        """Hold more, if there is so much left."""
        if self.held + amount > self.most:
            return False
        self.held += amount
        return True

    def give(self, amount: int) -> None:
        """Hold less."""
        self.held -= amount


class Holding:
    """What one request holds of the budgets; all of it is given back at its end.

    Args:
        bytes_held: Of bodies.
        pixels_held: Of decoded images.
    """

    def __init__(self, bytes_held: Budget, pixels_held: Budget) -> None:
        self._budgets = {"bytes": bytes_held, "pixels": pixels_held}
        self._own = dict.fromkeys(self._budgets, 0)

    def take(self, what: str, amount: int) -> bool:
        """Hold more "bytes" or "pixels", if there is so much left."""
        if not self._budgets[what].take(amount):
            return False
        self._own[what] += amount
        return True

    def own(self, what: str) -> int:
        """How much this request holds."""
        return self._own[what]

    def release(self) -> None:
        """Give it all back."""
        for what, amount in self._own.items():
            self._budgets[what].give(amount)
        self._own = dict.fromkeys(self._own, 0)
