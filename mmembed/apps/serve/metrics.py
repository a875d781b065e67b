"""What is counted, in Prometheus' form. No label is a caller's text."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one server.

    Example:
        >>> metrics = Metrics()
        >>> metrics.rejected.labels("full").inc()
        >>> b'mmembed_rejected_total{reason="full"} 1.0' in metrics.text()
        True
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kept: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("mmembed_requests", "Requests by path and status", ["path", "status"], **kept)
        self.seconds = Histogram(
            "mmembed_request_seconds",
            "From a request's head to the end of its answer",
            ["path"],
            buckets=_SECONDS,
            **kept,
        )
        self.rows = Counter("mmembed_rows", "Rows that the model worked on", ["verb"], **kept)
        self.pass_rows = Histogram(
            "mmembed_pass_rows", "Rows that shared a call of the model", ["verb"], buckets=_ROWS, **kept
        )
        self.pass_requests = Histogram(
            "mmembed_pass_requests", "Requests that shared a call of the model", ["verb"], buckets=_ROWS, **kept
        )
        self.pass_seconds = Histogram(
            "mmembed_pass_seconds", "Of one call of the model", ["verb"], buckets=_SECONDS, **kept
        )
        self.waiting = Gauge("mmembed_waiting_rows", "Rows that wait for the model", **kept)
        self.in_flight = Gauge("mmembed_in_flight_requests", "Requests under way", **kept)
        self.rejected = Counter("mmembed_rejected", "Requests that were not served", ["reason"], **kept)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
