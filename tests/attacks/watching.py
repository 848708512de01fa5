"""What an attack must not cost: memory, and the event loop's time. Both are counted, so a busy machine changes nothing."""

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass
class Cost:
    peak_bytes: int = 0
    """Most memory that Python held at a time, beyond what it held before."""
    longest_stand: float = 0.0
    """Longest time, in seconds of this thread's work, in which the event loop served nobody else."""


@asynccontextmanager
async def measure_cost() -> AsyncIterator[Cost]:
    """Yield the cost of the block; it is complete when the block has ended."""
    cost = Cost()

    async def tick() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            cost.longest_stand = max(cost.longest_stand, time.thread_time() - before)
            await asyncio.sleep(0.001)

    tracemalloc.start()
    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    try:
        yield cost
    finally:
        ticking.cancel()
        cost.peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
