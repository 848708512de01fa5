"""When to try a service again, and after how long. Pure functions, shared by the adapters that speak HTTP."""

import asyncio
import dataclasses
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from loguru import logger

from llm_engineering.application.ports import Delta, GenerationOptions
from llm_engineering.domain.errors import ModelServiceError
from llm_engineering.domain.retrieval import Usage
from llm_engineering.infrastructure.shared.openai_stream import ReplyReader

RETRIED_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers that may be another after a while."""


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """Return seconds that a Retry-After header asks for: a number, or a date (RFC 9110, 10.2.3). None: absent,
    unreadable."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def delay_seconds(
    attempt: int, asked: float | None, random: Callable[[], float], *, base: float = 0.5, cap: float = 30.0
) -> float:
    """Return how long to wait before trying again after ``attempt`` (0 for the first) failed.

    Half of an exponentially growing wait is fixed and half is random ("equal jitter"), so that clients that failed
    together do not come back together. A wait the server asked for is the least. ``random`` gives numbers in [0, 1).
    """
    wait = min(cap, base * 2.0**attempt)
    jittered = wait * (0.5 + 0.5 * random())
    return jittered if asked is None else asked + 0.1 * jittered


Reason = Literal["failed", "timeout", "busy"]
OVERLOADED_STATUSES = frozenset({429, 503})


class RetryableError(Exception):
    """An attempt failed in a way that another may not. ``asked``: seconds that the service wants us to wait."""

    def __init__(self, problem: str, asked: float | None = None, reason: Reason = "failed") -> None:
        super().__init__(problem)
        self.asked = asked
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a service is asked: shared by the adapters, who add how one attempt is made."""

    service: str
    """For messages: "The language model at …"."""
    hint: str
    """What to do when it fails for good."""
    max_retries: int = 3
    prompt_price: float | None = None
    completion_price: float | None = None
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def stream_reply(
        self, attempt: Callable[[ReplyReader], AsyncGenerator[str, None]], options: GenerationOptions
    ) -> AsyncGenerator[Delta, None]:
        """Stream one reply. ``attempt`` feeds the reader it is given and yields the texts it gets; it raises RetryableError for
        what may pass. After the first text there is no other try: what was shown cannot be taken back.

        Raises:
            ModelServiceError: the service failed after all retries, timed out, ended its stream early or answered
                nonsense. Whatever else ``attempt`` raises is passed on.
        """
        deadline = asyncio.get_running_loop().time() + options.timeout_seconds
        tried = 0
        while True:
            reader = ReplyReader(self.service, json_expected=options.json_schema is not None)
            try:
                async with aclosing(attempt(reader)) as texts:
                    while True:
                        # The deadline guards our waiting for the service, not the time our reader takes over a piece.
                        async with asyncio.timeout_at(deadline):
                            text = await anext(texts, None)
                        if text is None:
                            break
                        yield Delta(text=text)
                yield self._closing(reader)
                return
            except TimeoutError:
                raise ModelServiceError(
                    f"{self.service} did not finish within {options.timeout_seconds:g} s ({reader.progress}).",
                    reason="timeout",
                ) from None
            except RetryableError as failure:
                wait = delay_seconds(tried, failure.asked, random.random)
                out_of_time = asyncio.get_running_loop().time() + wait > deadline
                if reader.started or tried >= self.max_retries or out_of_time:
                    raise ModelServiceError(
                        f"{self.service} failed {reader.progress}: {failure} (attempt {tried + 1} of "
                        f"{self.max_retries + 1}). {self.hint}",
                        reason=failure.reason,
                        retry_after=failure.asked,
                    ) from failure
                logger.warning("{} failed ({}); trying again in {:.1f} s.", self.service, failure, wait)
                tried += 1
                await self.sleep(wait)

    def _closing(self, reader: ReplyReader) -> Delta:
        last = reader.make_closing_delta()
        return dataclasses.replace(last, usage=add_cost(last.usage, self.prompt_price, self.completion_price))


TOKENS_PER_PRICE = 1_000_000


def add_cost(usage: Usage | None, prompt_price: float | None, completion_price: float | None) -> Usage | None:
    """Add the cost in US dollars to a usage, at prices in US dollars for a million tokens.

    None stays None (the service did not tell), and without both prices no cost is stated: half of it would pass for all.
    """
    if usage is None or prompt_price is None or completion_price is None:
        return usage
    dollars = usage.prompt_tokens * prompt_price + usage.completion_tokens * completion_price
    return usage.model_copy(update={"cost_usd": dollars / TOKENS_PER_PRICE})
