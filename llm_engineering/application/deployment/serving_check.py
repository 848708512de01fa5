"""Whether a model that was just put into service may have the users' requests: reference answers, then load."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.ports import GenerationOptions, LanguageModel, Message
from llm_engineering.domain.errors import ModelError


class ReferenceQuestion(StrictConfig):
    """A question whose answer is known."""

    ask: str = Field(min_length=1)
    expect: tuple[str, ...] = Field(min_length=1)
    """The answer holds one of these, in any case."""


class LoadConfig(StrictConfig):
    """How hard the model is asked."""

    requests: int = Field(default=60, ge=1)
    concurrency: int = Field(default=6, ge=1)
    max_p95_seconds: float = Field(default=30.0, gt=0)
    """Most of the 95th percentile, from the request to the last token."""
    max_failed_share: float = Field(default=0.0, ge=0, lt=1)


class ServingCheckConfig(StrictConfig):
    """What is asked, and what is demanded."""

    questions: tuple[ReferenceQuestion, ...] = Field(min_length=1)
    min_right_share: float = Field(default=0.8, gt=0, le=1)
    max_tokens: int = Field(default=64, ge=1)
    timeout_seconds: float = Field(default=120.0, gt=0)
    load: LoadConfig | None = LoadConfig()
    """None: references alone."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one question."""

    question: ReferenceQuestion
    text: str
    seconds: float
    first_seconds: float | None
    """Until the first text; None: there was none."""
    error: str = ""

    @property
    def right(self) -> bool:
        """Whether it holds what was expected."""
        return not self.error and any(
            word.casefold() in self.text.casefold() for word in self.question.expect
        )


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What the load showed."""

    requests: int
    failed: int
    p50_seconds: float
    p95_seconds: float
    requests_per_second: float


async def ask_references(model: LanguageModel, config: ServingCheckConfig) -> list[Reply]:
    """Ask every question once, one after the other. A question that fails is a wrong answer with its reason."""
    return [await _ask(model, question, config) for question in config.questions]


async def put_under_load(model: LanguageModel, config: ServingCheckConfig, load: LoadConfig) -> LoadReport:
    """Ask the questions again and again, ``load.concurrency`` at a time."""
    free = asyncio.Semaphore(load.concurrency)

    async def ask(number: int) -> Reply:
        async with free:
            return await _ask(model, config.questions[number % len(config.questions)], config)

    began = time.perf_counter()
    replies = await asyncio.gather(*(ask(number) for number in range(load.requests)))
    elapsed = time.perf_counter() - began
    seconds = sorted(reply.seconds for reply in replies if not reply.error)
    return LoadReport(
        len(replies),
        sum(bool(reply.error) for reply in replies),
        _find_percentile(seconds, 0.5),
        _find_percentile(seconds, 0.95),
        len(seconds) / elapsed if elapsed else 0.0,
    )


def list_shortfalls(
    config: ServingCheckConfig, replies: Sequence[Reply], load: LoadReport | None
) -> list[str]:
    """Return what was demanded and is not met; empty: all of it is."""
    found = []
    right = sum(reply.right for reply in replies) / len(replies)
    if right < config.min_right_share:
        found.append(
            f"{right:.0%} of the reference answers are right; {config.min_right_share:.0%} are demanded."
        )
    if load is not None and config.load is not None:
        if load.failed > config.load.max_failed_share * load.requests:
            found.append(f"{load.failed} of {load.requests} requests under load failed.")
        if load.p95_seconds > config.load.max_p95_seconds:
            found.append(
                f"95 % of the answers took up to {load.p95_seconds:.1f} s; {config.load.max_p95_seconds:g} s are allowed."
            )
    return found


async def _ask(model: LanguageModel, question: ReferenceQuestion, config: ServingCheckConfig) -> Reply:
    options = GenerationOptions(max_tokens=config.max_tokens, timeout_seconds=config.timeout_seconds)
    pieces: list[str] = []
    first: float | None = None
    began = time.perf_counter()
    try:
        async for delta in model.stream([Message("user", question.ask)], options):
            if delta.text and first is None:
                first = time.perf_counter() - began
            pieces.append(delta.text)
    except ModelError as error:
        return Reply(question, "".join(pieces), time.perf_counter() - began, first, str(error))
    return Reply(question, "".join(pieces), time.perf_counter() - began, first)


def _find_percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed; infinite where there is none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.inf
