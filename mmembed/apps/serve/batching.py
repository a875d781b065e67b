"""How do requests that come together share a forward pass?

One thread runs the model, one call at a time. While it works, requests pile up; the next call takes all that fit and want
the same. A request that finds nothing else waiting waits a few milliseconds for company.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mmembed.apps.serve.metrics import Metrics
from mmembed.apps.serve.rejections import Rejection


@dataclass
class _Job:
    key: tuple[str, Hashable]
    payload: Any
    rows: int
    answer: asyncio.Future[Any]


class Batcher:
    """A bounded queue before one thread.

    Args:
        run: Does the work: (verb, settings, payloads of requests that share both) → one answer a payload, in order. It is
            called in the thread; where it raises for several, each is tried alone.
        metrics: Where it is counted.
        max_rows: Rows of one call; a request with more has a call of its own.
        max_waiting: Rows that may wait.
        gather_seconds: How long a request waits for company where nothing else waits.
    """

    def __init__(
        self,
        run: Callable[[str, Any, Sequence[Any]], Sequence[Any]],
        metrics: Metrics,
        *,
        max_rows: int,
        max_waiting: int,
        gather_seconds: float,
    ) -> None:
        self._run, self._metrics = run, metrics
        self.max_rows, self.max_waiting, self.gather_seconds = max_rows, max_waiting, gather_seconds
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._loop: asyncio.Task[None] | None = None

    async def submit(self, verb: str, settings: Hashable, payload: Any, *, rows: int, seconds: float) -> Any:
        """Wait for a place, for company, and for the answer.

        Args:
            verb: What is asked.
            settings: What requests must have in common to share a call.
            payload: The request's own.
            rows: How many it counts.
            seconds: How long it may take.

        Returns:
            The answer.

        Raises:
            Rejection: 429 where the queue is full, 504 where it takes too long.
            Exception: What the work raised for this request.
        """
        if self._waiting + rows > self.max_waiting:
            self._metrics.rejected.labels("full").inc()
            message = (
                f"{self._waiting} rows are waiting for the model already; ask again in a moment, or for fewer at once"
            )
            raise Rejection(429, message, code="queue_full", retry_after=1)
        if self._loop is None:
            self._loop = asyncio.create_task(self._work())
        job = _Job((verb, settings), payload, rows, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._count(rows)
        self._arrived.set()
        try:
            return await asyncio.wait_for(job.answer, seconds)
        except TimeoutError:
            self._metrics.rejected.labels("timeout").inc()
            message = f"the answer took more than {seconds:g} seconds; ask for fewer rows at once"
            raise Rejection(504, message, code="timeout", retry_after=5) from None

    async def close(self) -> None:
        """Stop; what still waits is cancelled."""
        if self._loop is not None:
            self._loop.cancel()
        for job in self._jobs:
            job.answer.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _count(self, rows: int) -> None:
        self._waiting += rows
        self._metrics.waiting.set(self._waiting)

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            if len(self._jobs) == 1 and self._jobs[0].rows < self.max_rows and self.gather_seconds:
                await asyncio.sleep(self.gather_seconds)
            jobs = self._next()
            if not self._jobs:
                self._arrived.clear()
            if jobs:
                await self._answer(jobs)

    def _next(self) -> list[_Job]:
        """The first request, and those behind it that want the same and still fit."""
        taken: list[_Job] = []
        left: deque[_Job] = deque()
        rows = 0
        for job in self._jobs:
            if job.answer.done():  # its caller has given up
                self._count(-job.rows)
            elif not taken or (job.key == taken[0].key and rows + job.rows <= self.max_rows):
                taken.append(job)
                rows += job.rows
                self._count(-job.rows)
            else:
                left.append(job)
        self._jobs = left
        return taken

    async def _answer(self, jobs: list[_Job]) -> None:
        verb, settings = jobs[0].key
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._thread, self._run, verb, settings, [job.payload for job in jobs])
            if len(answers) != len(jobs):
                raise RuntimeError(f"{len(answers)} answers to {len(jobs)} requests")
        except Exception as error:
            if len(jobs) > 1:  # one of them is at fault; the others shall not suffer for it
                for job in jobs:
                    if not job.answer.done():
                        await self._answer([job])
                return
            if not jobs[0].answer.done():
                jobs[0].answer.set_exception(error)
            return
        rows = sum(job.rows for job in jobs)
        self._metrics.pass_seconds.labels(verb).observe(time.perf_counter() - began)
        self._metrics.pass_rows.labels(verb).observe(rows)
        self._metrics.pass_requests.labels(verb).observe(len(jobs))
        self._metrics.rows.labels(verb).inc(rows)
        for job, answer in zip(jobs, answers):
            if not job.answer.done():
                job.answer.set_result(answer)
