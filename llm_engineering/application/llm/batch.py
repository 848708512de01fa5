"""Send many requests to a language model: replies are cached, requests limited and retried, failures kept as dead letters."""

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

from llm_engineering.application.failures import dead_letter
from llm_engineering.application.llm.budget import Budget, BudgetExhaustedError, CostTracker
from llm_engineering.application.llm.structured_output import UnusableReplyError
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


class NoAnswerError(Exception):
    """Nothing usable came after all attempts. Costs one item, not the run."""


class BatchConfig(Model):
    """How requests are sent to the model."""

    concurrency: int = Field(default=4, ge=1, le=256)
    """Requests in flight at a time."""
    requests_per_minute: int = Field(default=0, ge=0)
    """0: no limit. Replies from the cache do not count."""
    attempts: int = Field(default=3, ge=1, le=MOST_ATTEMPTS)
    """Most requests for one item, the first included."""
    timeout_seconds: float = Field(default=180.0, gt=0)
    """For one reply."""
    budget: Budget = Budget()


@dataclass(frozen=True, slots=True)
class LlmRequest(Generic[T]):
    """One thing to ask the model for."""

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
class BatchReport:
    """Counts of requests and replies."""

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
    """Space requests evenly, at most so many a minute, so that no service sees a burst."""

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

    async def wait_turn(self) -> None:
        """Wait until it is this request's turn."""
        if not self._gap:
            return
        now = self._clock()
        start = max(now, self._next)
        self._next = start + self._gap
        if start > now:
            await self._sleep(start - now)


class BatchClient:
    """Send requests to a model within one run's limits. For one event loop.

    Every reply is cached before it is read, even an unusable one, so an interrupted run resumes without paying twice: only the
    requests in flight at that moment are lost.

    Args:
        stage: names this use in dead letters.
        seed: of the first attempt; further attempts count up from it.
        costs: of several that share one budget; None: one of its own.
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: GenerationCache,
        dead_letters: DeadLetterStore,
        config: BatchConfig,
        *,
        stage: str,
        seed: int = 0,
        rate: RequestRate | None = None,
        costs: CostTracker | None = None,
    ) -> None:
        self.model = model
        self.costs = costs or CostTracker(config.budget)
        self.report = BatchReport()
        self.seed = seed
        self._cache = cache
        self._dead_letters = dead_letters
        self._config = config
        self._stage = stage
        self._rate = rate or RequestRate(config.requests_per_minute)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._failed_in_a_row = 0
        self._succeeded: list[str] = []
        self._in_flight: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def ask(self, request: LlmRequest[T]) -> T | None:
        """Return what the reply says; None where no reply was usable (there is a dead letter) or the budget is exhausted.

        Raises:
            ModelServiceError: the service is down.
            ConfigurationError: the model cannot be used as it is configured.
            StoreError: cache or dead letters cannot be written.
        """
        try:
            return await self.answer(request)
        except (BudgetExhaustedError, NoAnswerError):
            return None

    async def answer(self, request: LlmRequest[T]) -> T:
        """Return what the reply says, as :meth:`ask` does, but raise where there is none.

        Raises:
            BudgetExhaustedError: the budget leaves no room to ask.
            NoAnswerError: nothing usable came; there is a dead letter.
            ModelServiceError: the service is down.
            ConfigurationError: the model cannot be used as it is configured.
            StoreError: cache or dead letters cannot be written.
        """
        self.report.asked += 1
        reason = payload = ""
        for attempt in range(self._config.attempts):
            try:
                reply = await self._reply(request, self._options(request, attempt))
            except BudgetExhaustedError:
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
                value = request.read(reply.text)
            except UnusableReplyError as error:
                reason, payload = str(error), reply.text
                self._count_malformed(reason)
                continue
            self.report.answered += 1
            self._succeeded.append(request.name)
            return value
        self.report.lost += 1
        await self.give_up(request.name, reason, payload)
        raise NoAnswerError(reason)

    async def give_up(self, name: str, reason: str, payload: str = "") -> None:
        """Keep an unusable reply as a dead letter, with the reason."""
        whole = payload.encode("utf-8", "replace").decode()
        await asyncio.to_thread(self._dead_letters.put, [dead_letter(self._stage, name, reason, whole)])

    async def resolve_dead_letters(self) -> None:
        """Remove the dead letters of earlier runs for what has succeeded."""
        await asyncio.to_thread(self._dead_letters.resolve, self._stage, self._succeeded)

    async def finish(self) -> None:
        """Resolve dead letters, and log counts and costs."""
        await self.resolve_dead_letters()
        report, costs = self.report, self.costs
        logger.info(
            "Asked {} for {} items: {} answered, {} given up ({:.0%} of the replies could not be used); {} requests, {} replies "
            "from the cache, {} tokens.",
            self.model.name,
            report.asked,
            report.answered,
            report.lost,
            report.malformed_share,
            costs.requests,
            report.from_cache,
            costs.spent.prompt_tokens + costs.spent.completion_tokens,
        )
        if costs.stopped:
            logger.warning("{} {} items were not asked for.", costs.stopped, report.not_asked)

    def to_metadata(self) -> dict[str, Any]:
        """Return counts and costs for a run's report."""
        report, costs = self.report, self.costs
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
            "requests": costs.requests,
            "prompt_tokens": costs.spent.prompt_tokens,
            "completion_tokens": costs.spent.completion_tokens,
            "cost_usd": costs.spent.cost_usd,
            "cached_tokens": costs.saved.prompt_tokens + costs.saved.completion_tokens,
            "stopped": costs.stopped,
            "reasons": dict(sorted(report.reasons.items())),
        }

    def _options(self, request: LlmRequest[Any], attempt: int) -> GenerationOptions:
        warmth = request.options.temperature
        warmer = max(warmth, RETRY_TEMPERATURE) if attempt else warmth
        return replace(
            request.options,
            seed=self.seed + request.seed + attempt,
            temperature=warmer,
            timeout_seconds=self._config.timeout_seconds,
        )

    async def _reply(self, request: LlmRequest[Any], options: GenerationOptions) -> Generation:
        key = generation_key(request.messages, request.prompt_hash, self.model.name, options)
        same = self._in_flight.setdefault(key, asyncio.Lock())
        # Two items may ask for the very same; the second waits, and finds the first one's reply in the cache.
        async with same, self._slots:
            known = (await asyncio.to_thread(self._cache.get_many, [key])).get(key)
            if known is not None:
                self.report.from_cache += 1
                self.costs.add_cached(known.usage)
                return known
            prompt_tokens = sum(await self.model.count_tokens([m.content for m in request.messages]))
            async with self.costs.reserve(prompt_tokens + options.max_tokens) as used:
                await self._rate.wait_turn()
                reply = await _generated(self.model, request.messages, options, prompt_tokens)
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
                f"{error} Finished items are saved; rerun when the service is back."
            ) from error
        return str(error)

    def _count_malformed(self, reason: str) -> None:
        self.report.malformed += 1
        short = reason.partition(":")[0]
        self.report.reasons[short] = self.report.reasons.get(short, 0) + 1


def generation_key(
    messages: Sequence[Message], prompt_hash: str, model: str, options: GenerationOptions
) -> str:
    """Return SHA-256 over all that decides a reply: messages, prompt, model, and the options but for the time allowed."""
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


async def run_in_order(
    items: Iterable[Item], work: Callable[[Item], Coroutine[Any, Any, Result]], most: int
) -> AsyncIterator[Result]:
    """Yield results of ``work`` in the order of the items, at most ``most`` in flight; a failure cancels the rest."""
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
    if usage is None:  # the service did not tell; the tracker goes by our own count
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=sum(await model.count_tokens([text])))
    return Generation(text, usage)
