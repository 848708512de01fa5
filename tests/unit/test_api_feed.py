"""A feed reads a generator in its own task: items in order, errors in their turn, and an end that is an end."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from llm_engineering.infrastructure.api.streaming import Feed, NothingYet, cancel_tasks


class Source:
    """Yields numbers; remembers whether it was closed."""

    def __init__(self, count: int = 3, seconds: float = 0.0, then: Exception | None = None) -> None:
        self._count, self._seconds, self._then = count, seconds, then
        self.reached = 0
        self.closed = False

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self._count):
                await asyncio.sleep(self._seconds)
                self.reached = number + 1
                yield number
            if self._then is not None:
                raise self._then
        finally:
            self.closed = True


async def test_items_come_in_order_and_then_nothing_more() -> None:
    source = Source()
    feed = Feed(source.items())
    assert [await feed.read_next() for _ in range(5)] == [0, 1, 2, None, None]
    assert source.closed
    await feed.close()


@pytest.mark.parametrize("error", [ValueError("x"), TimeoutError("x")])
async def test_an_error_comes_after_the_items_before_it_and_only_once(error: Exception) -> None:
    feed = Feed(Source(count=1, then=error).items())
    assert await feed.read_next() == 0
    with pytest.raises(type(error)):
        await feed.read_next(within=5)
    assert await feed.read_next() is None
    await feed.close()


async def test_waiting_can_be_given_up_and_resumed_without_losing_an_item() -> None:
    feed = Feed(Source(count=2, seconds=0.05).items())
    came: list[int | None] = []
    silences = 0
    while len(came) < 2:
        try:
            came.append(await feed.read_next(within=0.01))
        except NothingYet:
            silences += 1
    assert came == [0, 1]
    assert silences
    await feed.close()


async def test_closing_ends_a_generator_that_waits() -> None:
    source = Source(count=1_000, seconds=0.01)
    feed = Feed(source.items())
    await feed.read_next()
    await feed.close()
    assert source.closed
    assert source.reached < 1_000


async def test_closing_ends_a_generator_that_is_far_ahead_of_its_reader() -> None:
    source = Source(count=1_000)
    feed = Feed(source.items())
    await asyncio.sleep(0.01)
    assert 0 < source.reached < 100, "it waits for its reader"
    await feed.close()
    assert source.closed


async def test_closing_at_once_closes_the_generator_too() -> None:
    source = Source()
    items = source.items()
    await Feed(items).close()
    assert source.reached == 0
    assert [item async for item in items] == []


async def test_a_generator_that_loses_its_cancellation_is_ended_all_the_same() -> None:
    """As ``asyncio.wait_for`` of Python 3.11 may make it lose."""
    lost = 0

    async def stubborn() -> AsyncGenerator[int, None]:
        nonlocal lost
        yield 0
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            lost += 1
        for number in range(1_000):
            yield number

    feed = Feed(stubborn())
    await feed.read_next()
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await feed.close()
    assert lost == 1


async def test_what_an_ended_task_raised_is_nobodys_warning() -> None:
    async def failing() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("while ending")

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    await cancel_tasks(task)
    assert isinstance(task.exception(), ValueError)
