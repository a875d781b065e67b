"""Requests that want the same share a call, in order; the others wait their turn, and nothing is lost."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from mmembed.apps.serve.batching import Batcher
from mmembed.apps.serve.metrics import Metrics
from mmembed.apps.serve.rejections import Rejection


class Work:
    """Doubles numbers, and remembers what was asked together; it waits for `go` where it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, list[Any]]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, verb: str, settings: Any, payloads) -> list[Any]:
        self.go.wait(10)
        self.calls.append((verb, settings, list(payloads)))
        if any(payload == "bad" for payload in payloads):
            raise ValueError("bad")
        return [payload * 2 for payload in payloads]


def batcher(work: Work, **options: Any) -> Batcher:
    return Batcher(work, Metrics(), **{"max_rows": 4, "max_waiting": 100, "gather_seconds": 0.05, **options})


def test_what_comes_together_shares_calls_in_order() -> None:
    async def run() -> list[Any]:
        one = batcher(work)
        return await asyncio.gather(*(one.submit("encode", None, n, rows=1, seconds=5) for n in range(10)))

    work = Work()
    assert asyncio.run(run()) == [n * 2 for n in range(10)]
    assert [payloads for *_, payloads in work.calls] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_other_verbs_and_settings_are_not_mixed_and_do_not_wait_for_ever() -> None:
    async def run() -> list[Any]:
        one = batcher(work)
        asked = [
            ("encode", None, 1),
            ("search", (10,), 2),
            ("encode", None, 3),
            ("search", (5,), 4),
            ("encode", "p", 5),
        ]
        return await asyncio.gather(*(one.submit(v, s, p, rows=1, seconds=5) for v, s, p in asked))

    work = Work()
    assert asyncio.run(run()) == [2, 4, 6, 8, 10]
    assert work.calls == [("encode", None, [1, 3]), ("search", (10,), [2]), ("search", (5,), [4]), ("encode", "p", [5])]


def test_rows_count_and_a_large_request_has_a_call_of_its_own() -> None:
    async def run() -> list[Any]:
        one = batcher(work)
        return await asyncio.gather(*(one.submit("encode", None, n, rows=n, seconds=5) for n in (3, 9, 1, 2, 2)))

    work = Work()
    asyncio.run(run())
    assert [payloads for *_, payloads in work.calls] == [[3, 1], [9], [2, 2]]


def test_the_one_at_fault_fails_alone() -> None:
    async def run() -> list[Any]:
        one = batcher(work)
        asked = [one.submit("encode", None, p, rows=1, seconds=5) for p in (1, "bad", 3)]
        return await asyncio.gather(*asked, return_exceptions=True)

    work = Work()
    first, second, third = asyncio.run(run())
    assert (first, third) == (2, 6) and isinstance(second, ValueError)
    assert [payloads for *_, payloads in work.calls] == [[1, "bad", 3], [1], ["bad"], [3]]


def test_a_full_queue_refuses_and_is_open_again_when_it_is_not() -> None:
    async def run() -> None:
        one = batcher(work, max_waiting=3, gather_seconds=0.0)
        work.go.clear()
        busy = asyncio.create_task(one.submit("encode", None, 1, rows=1, seconds=5))
        await asyncio.sleep(0.02)  # it is being worked on, and waits no more
        waiting = [asyncio.create_task(one.submit("encode", None, n, rows=1, seconds=5)) for n in (2, 3, 4)]
        await asyncio.sleep(0)
        with pytest.raises(Rejection) as refused:
            await one.submit("encode", None, 5, rows=1, seconds=5)
        assert (refused.value.status, refused.value.retry_after, refused.value.code) == (429, 1, "queue_full")
        work.go.set()
        assert [await task for task in (busy, *waiting)] == [2, 4, 6, 8]
        assert await one.submit("encode", None, 5, rows=3, seconds=5) == 10

    work = Work()
    asyncio.run(run())


def test_who_gives_up_takes_no_place_and_no_work() -> None:
    async def run() -> None:
        one = batcher(work, max_waiting=2, gather_seconds=0.0)
        work.go.clear()
        busy = asyncio.create_task(one.submit("encode", None, 1, rows=1, seconds=5))
        await asyncio.sleep(0.02)
        with pytest.raises(Rejection) as late:
            await one.submit("encode", None, "late", rows=2, seconds=0.05)
        assert late.value.status == 504
        work.go.set()
        assert await busy == 2
        assert await one.submit("encode", None, 3, rows=2, seconds=5) == 6
        assert one._waiting == 0

    work = Work()
    asyncio.run(run())
    assert [payloads for *_, payloads in work.calls] == [[1], [3]]


def test_a_lone_request_does_not_wait_where_nothing_is_gathered() -> None:
    async def run() -> float:
        one = batcher(work, gather_seconds=0.0)
        await one.submit("encode", None, 0, rows=1, seconds=5)
        began = asyncio.get_running_loop().time()
        await one.submit("encode", None, 1, rows=1, seconds=5)
        return asyncio.get_running_loop().time() - began

    work = Work()
    assert min(asyncio.run(run()) for _ in range(5)) < 0.02


def test_answers_that_do_not_fit_are_nobodys() -> None:
    async def run() -> None:
        one = Batcher(lambda *_: [], Metrics(), max_rows=4, max_waiting=10, gather_seconds=0.0)
        for _ in range(2):  # and the queue goes on
            with pytest.raises(RuntimeError, match="0 answers to 1 requests"):
                await one.submit("encode", None, 1, rows=1, seconds=5)
        await one.close()

    asyncio.run(run())
