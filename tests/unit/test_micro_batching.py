"""Micro-batching: what waits goes together, in order, and a failure reaches only who caused it."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.application.inference.embedding import MicroBatcher
from llm_engineering.domain.errors import ModelError


class Doubler:
    """Doubles numbers; remembers the batches, waits for ``gate``, and fails on 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        assert self.gate.wait(5)
        self.batches.append(list(numbers))
        if 13 in numbers:
            raise ModelError("unlucky")
        return [2 * number for number in numbers]


@settings(deadline=None, max_examples=30)
@given(requests=st.lists(st.lists(st.integers(20, 99), max_size=4), max_size=12), most=st.integers(1, 6))
def test_everyone_gets_their_own_in_order(requests: list[list[int]], most: int) -> None:
    async def ask() -> list[list[int]]:
        batcher = MicroBatcher(Doubler(), max_items=most)
        return list(await asyncio.gather(*(batcher(items) for items in requests)))

    assert asyncio.run(ask()) == [[2 * number for number in items] for items in requests]


async def test_what_waits_goes_into_one_call() -> None:
    work = Doubler()
    batcher = MicroBatcher(work, max_items=100)
    await asyncio.gather(*(batcher([i]) for i in range(20, 52)))
    assert [len(batch) for batch in work.batches] == [32]


async def test_a_call_has_no_more_items_than_allowed_unless_one_request_has() -> None:
    work = Doubler()
    batcher = MicroBatcher(work, max_items=2)
    await asyncio.gather(*(batcher(items) for items in ([1], [2], [3, 4, 5], [6])))
    assert work.batches == [[1, 2], [3, 4, 5], [6]]


async def test_a_failure_reaches_only_who_caused_it() -> None:
    batcher = MicroBatcher(Doubler())
    first, second, third = await asyncio.gather(
        batcher([1]), batcher([13]), batcher([3]), return_exceptions=True
    )
    assert (first, third) == ([2], [6])
    assert isinstance(second, ModelError)


async def test_a_bug_reaches_everyone_rather_than_hang_them() -> None:
    def broken(items: Sequence[int]) -> list[int]:
        raise ZeroDivisionError

    batcher = MicroBatcher(broken)
    found = await asyncio.gather(batcher([1]), batcher([2]), return_exceptions=True)
    assert [type(each) for each in found] == [ZeroDivisionError] * 2


async def test_one_who_leaves_holds_up_nobody() -> None:
    work = Doubler()
    work.gate.clear()
    batcher = MicroBatcher(work)
    running = asyncio.create_task(batcher([1]))
    await asyncio.sleep(0.02)
    leaving, staying = asyncio.create_task(batcher([2])), asyncio.create_task(batcher([3]))
    await asyncio.sleep(0)
    leaving.cancel()
    work.gate.set()
    assert await running == [2]
    assert await staying == [6]
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert work.batches == [[1], [3]]


def test_it_serves_one_event_loop_after_another() -> None:
    batcher = MicroBatcher(Doubler())

    async def ask() -> list[int]:
        return await batcher([4])

    assert [asyncio.run(ask()) for _ in range(3)] == [[8], [8], [8]]
