"""Asking a language model for many small things: cached, limited, retried one by one, what fails kept as dead letters."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from loguru import logger
from pydantic import Field

from llm_engineering.application.failures import letter
from llm_engineering.application.llm.budget import Budget, BudgetSpentError, SpendingLedger
from llm_engineering.application.ports import (
    DeadLetterStore,
    Generation,
    GenerationCache,
    GenerationOptions,
    LanguageModel,
    Message,
)
from llm_engineering.domain.documents import Model
from llm_engineering.domain.errors import InvalidInputError, ModelServiceError
from llm_engineering.domain.retrieval import Usage

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_FAILURES_IN_A_ROW = 10
"""A service that fails this often in a row is down; every request was tried several times by then."""
MOST_ATTEMPTS = 10
RETRY_TEMPERATURE = 0.4
"""At least so warm is asked again, since a model at temperature 0 would say the same as before."""


class UnusableReplyError(ValueError):
    """A reply is not what was asked for. The message says what was expected."""


class NoAnswerError(Exception):
    """Nothing usable came after all attempts. Costs one item, not the run."""


class Asking(Model):
    """How the model is asked."""

    concurrency: int = Field(default=4, ge=1, le=256)
    """Requests in flight at a time."""
    requests_per_minute: int = Field(default=0, ge=0)
    """0: no limit. Replies from the cache do not count."""
    attempts: int = Field(default=3, ge=1, le=MOST_ATTEMPTS)
    """How often one item is asked for before it is given up."""
    timeout_seconds: float = Field(default=180.0, gt=0)
    """For one reply."""
    budget: Budget = Budget()


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """One thing to ask for."""

    name: str
    """Names the item in dead letters."""
    messages: tuple[Message, ...]
    options: GenerationOptions
    prompt_hash: str
    read: Callable[[str], T]
    """The reply as a value; raises UnusableReplyError."""
    seed: int = 0
    """Added to the run's, to ask for the same thing several times. Steps of MOST_ATTEMPTS keep it from the retries' seeds."""


@dataclass(slots=True)
class AskingReport:
    """Counts of what was asked and what came."""

    asked: int = 0
    """Items."""
    answered: int = 0
    lost: int = 0
    """Items given up after all attempts; each is a dead letter."""
    not_asked: int = 0
    """Items that the budget left no room for."""
    replies: int = 0
    from_cache: int = 0
    malformed: int = 0
    """Replies that could not be used."""
    unusable_items: int = 0
    """Items left out of lists of which others could be used."""
    failures: int = 0
    """Requests without a reply."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why replies were of no use."""

    @property
    def malformed_share(self) -> float:
        """Of all replies, 0 to 1."""
        return self.malformed / self.replies if self.replies else 0.0


class RequestRate:
    """At most so many requests a minute, evenly spaced, so that no service sees a burst."""

    def __init__(
        self,
        per_minute: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._clock = clock
        self._sleep = sleep
        self._next = float("-inf")

    async def turn(self) -> None:
        """Wait until it is this request's turn."""
        if not self._gap:
            return
        now = self._clock()
        start = max(now, self._next)
        self._next = start + self._gap
        if start > now:
            await self._sleep(start - now)


class Asker:
    """Asks a model under one run's limits. For one event loop.

    Every reply is cached before it is used, also one that cannot be used, so a run that was killed makes no request twice:
    what is under way at that moment is all that is lost.

    Args:
        stage: names this use in dead letters.
        seed: of the first attempt; further attempts count up from it.
        ledger: of several that share one budget; None: one of its own.
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: GenerationCache,
        dead_letters: DeadLetterStore,
        asking: Asking,
        *,
        stage: str,
        seed: int = 0,
        rate: RequestRate | None = None,
        ledger: SpendingLedger | None = None,
    ) -> None:
        self.model = model
        self.ledger = ledger or SpendingLedger(asking.budget)
        self.report = AskingReport()
        self.seed = seed
        self._cache = cache
        self._dead_letters = dead_letters
        self._asking = asking
        self._stage = stage
        self._rate = rate or RequestRate(asking.requests_per_minute)
        self._slots = asyncio.Semaphore(asking.concurrency)
        self._failed_in_a_row = 0
        self._succeeded: list[str] = []
        self._under_way: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def ask(self, ask: Ask[T]) -> T | None:
        """What the model says, read; None: nothing usable came (there is a dead letter), or the budget is spent.

        Raises:
            ModelServiceError: the service is down.
            ConfigurationError: the model cannot be used as it is configured.
            StoreError: cache or dead letters cannot be written.
        """
        try:
            return await self.answer(ask)
        except (BudgetSpentError, NoAnswerError):
            return None

    async def answer(self, ask: Ask[T]) -> T:
        """What the model says, read; as :meth:`ask` does, but what is missing says why.

        Raises:
            BudgetSpentError: the budget leaves no room to ask.
            NoAnswerError: nothing usable came; there is a dead letter.
            ModelServiceError: the service is down.
            ConfigurationError: the model cannot be used as it is configured.
            StoreError: cache or dead letters cannot be written.
        """
        self.report.asked += 1
        reason = payload = ""
        for attempt in range(self._asking.attempts):
            try:
                reply = await self._reply(ask, self._options(ask, attempt))
            except BudgetSpentError:
                self.report.not_asked += 1
                raise
            except InvalidInputError as error:  # the prompt does not fit: asking again changes nothing
                reason = str(error)
                break
            except ModelServiceError as error:
                reason = self._failed(error)
                continue
            self.report.replies += 1
            try:
                value = ask.read(reply.text)
            except UnusableReplyError as error:
                reason, payload = str(error), reply.text
                self._count_malformed(reason)
                continue
            self.report.answered += 1
            self._succeeded.append(ask.name)
            return value
        self.report.lost += 1
        await self.give_up(ask.name, reason, payload)
        raise NoAnswerError(reason)

    async def give_up(self, name: str, reason: str, payload: str = "") -> None:
        """Keep something that cannot be used as a dead letter, with its reason."""
        whole = payload.encode("utf-8", "replace").decode()
        await asyncio.to_thread(self._dead_letters.put, [letter(self._stage, name, reason, whole)])

    async def settle(self) -> None:
        """Forget the dead letters of earlier runs for what has succeeded."""
        await asyncio.to_thread(self._dead_letters.resolve, self._stage, self._succeeded)

    async def finish(self) -> None:
        """Settle, and log what was spent."""
        await self.settle()
        report, ledger = self.report, self.ledger
        logger.info(
            "Asked {} for {} things: {} came, {} given up ({:.0%} of the replies could not be used); {} requests, {} replies "
            "from the cache, {} tokens.",
            self.model.name,
            report.asked,
            report.answered,
            report.lost,
            report.malformed_share,
            ledger.requests,
            report.from_cache,
            ledger.spent.prompt_tokens + ledger.spent.completion_tokens,
        )
        if ledger.stopped:
            logger.warning("{} {} items were not asked for.", ledger.stopped, report.not_asked)

    def metadata(self) -> dict[str, Any]:
        """Counts and costs for a run's report."""
        report, ledger = self.report, self.ledger
        return {
            "model": self.model.name,
            "asked": report.asked,
            "answered": report.answered,
            "given_up": report.lost,
            "not_asked": report.not_asked,
            "replies": report.replies,
            "replies_from_cache": report.from_cache,
            "malformed_replies": report.malformed,
            "malformed_share": report.malformed_share,
            "unusable_items": report.unusable_items,
            "failed_requests": report.failures,
            "requests": ledger.requests,
            "prompt_tokens": ledger.spent.prompt_tokens,
            "completion_tokens": ledger.spent.completion_tokens,
            "cost_usd": ledger.spent.cost_usd,
            "cached_tokens": ledger.saved.prompt_tokens + ledger.saved.completion_tokens,
            "stopped": ledger.stopped,
            "reasons": dict(sorted(report.reasons.items())),
        }

    def _options(self, ask: Ask[Any], attempt: int) -> GenerationOptions:
        warmth = ask.options.temperature
        warmer = max(warmth, RETRY_TEMPERATURE) if attempt else warmth
        return replace(
            ask.options,
            seed=self.seed + ask.seed + attempt,
            temperature=warmer,
            timeout_seconds=self._asking.timeout_seconds,
        )

    async def _reply(self, ask: Ask[Any], options: GenerationOptions) -> Generation:
        key = generation_key(ask.messages, ask.prompt_hash, self.model.name, options)
        same = self._under_way.setdefault(key, asyncio.Lock())
        # Two items may ask for the very same; the second waits, and finds the first one's reply in the cache.
        async with same, self._slots:
            known = (await asyncio.to_thread(self._cache.get_many, [key])).get(key)
            if known is not None:
                self.report.from_cache += 1
                self.ledger.reuse(known.usage)
                return known
            prompt_tokens = sum(await self.model.count_tokens([m.content for m in ask.messages]))
            async with self.ledger.reserved(prompt_tokens + options.max_tokens) as used:
                await self._rate.turn()
                reply = await _generated(self.model, ask.messages, options, prompt_tokens)
                self._failed_in_a_row = 0
                # Kept at once, not in batches: a run that is killed here has paid for all that is in flight already. Shielded,
                # because a task that is cancelled between reply and cache would pay again.
                await asyncio.shield(asyncio.to_thread(self._cache.put_many, {key: reply}))
                used(reply.usage)
                return reply

    def _failed(self, error: ModelServiceError) -> str:
        self.report.failures += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= MOST_FAILURES_IN_A_ROW:
            raise ModelServiceError(
                f"{self._failed_in_a_row} requests in a row failed, so the model's service seems to be down; the last one: "
                f"{error} What was made is kept: run again when the service is back."
            ) from error
        return str(error)

    def _count_malformed(self, reason: str) -> None:
        self.report.malformed += 1
        short = reason.partition(":")[0]
        self.report.reasons[short] = self.report.reasons.get(short, 0) + 1


def generation_key(
    messages: Sequence[Message], prompt_hash: str, model: str, options: GenerationOptions
) -> str:
    """SHA-256 over all that decides a reply: messages, prompt, model, and the options but for the time allowed."""
    parts = {
        "messages": [(message.role, message.content) for message in messages],
        "prompt": prompt_hash,
        "model": model,
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "seed": options.seed,
        "stop": options.stop,
        "schema": options.json_schema,
    }
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


async def at_a_time(
    items: Iterable[Item], work: Callable[[Item], Coroutine[Any, Any, Result]], most: int
) -> AsyncIterator[Result]:
    """Results of ``work`` in the order of the items, at most ``most`` under way; whatever fails cancels the rest."""
    waiting: list[asyncio.Task[Result]] = []
    try:
        for item in items:
            waiting.append(asyncio.ensure_future(work(item)))
            if len(waiting) >= most:
                yield await waiting[0]
                waiting.pop(0)
        while waiting:
            yield await waiting[0]
            waiting.pop(0)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _generated(
    model: LanguageModel, messages: Sequence[Message], options: GenerationOptions, prompt_tokens: int
) -> Generation:
    parts: list[str] = []
    usage: Usage | None = None
    stream = model.stream(messages, options)
    try:
        async for delta in stream:
            parts.append(delta.text)
            usage = delta.usage or usage
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:  # leaving early ends the generation
            await close()
    # Halves of surrogate pairs cannot be stored as UTF-8.
    text = "".join(parts).encode("utf-8", "replace").decode()
    if usage is None:  # the service did not tell; the ledger goes by our own count
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=sum(await model.count_tokens([text])))
    return Generation(text, usage)
