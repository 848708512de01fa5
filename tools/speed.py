"""How fast this machine is, measured in seconds, and what follows from it for answers and for training. Rough figures."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llm_engineering.application.ports import GenerationOptions, LanguageModel, Message
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.domain.errors import TwinError
from llm_engineering.settings import LlamaCppSettings
from tools.checks import Finding, State

SECONDS = 6.0
"""For the language model: to be loaded, to read a prompt and to write a few words."""
_PROMPT = "Wie schnell liest dieses Modell einen Text, und wie schnell schreibt es einen? " * 4
_RULES_TOKENS, _PASSAGE_TOKENS, _PASSAGES = 100, 150, 5
"""Of a prompt for an answer, and how many passages are found."""
_SEARCH_SECONDS = 0.4
_SENTENCE_TOKENS = 25
_SLOW_SECONDS = 10.0
_MATRIX = 1024
_PARAMETERS, _STEP_TOKENS = 135e6, 2_000
"""Of the bundled model that is trained, and of a step as ``configs/training_sft.yaml`` has it."""
_TRAINING_FLOPS, _TRAINING_SHARE = 4, 0.4
"""Operations a parameter and token (forward, and backward to the adapters), and the share of a plain product's speed that
training reaches."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second."""

    reading: float
    writing: float

    def estimate_sentence(self, passages: int) -> float:
        """Return the seconds until a model has said a first sentence of so many passages, with the models loaded."""
        prompt = _RULES_TOKENS + _PASSAGE_TOKENS * passages
        return _SEARCH_SECONDS + prompt / self.reading + _SENTENCE_TOKENS / self.writing


def measure_speed(resources: Resources) -> Iterator[Finding]:
    """Measure the language model and the processor."""
    if resources.llm_profile.grounding == "extractive":
        yield Finding("Speed", "answers", State.OK, "quotations, at once; no model is asked")
    elif isinstance(resources.settings.llm, LlamaCppSettings):
        yield asyncio.run(_measure_model(resources))
    else:
        yield Finding("Speed", "answers", State.OK, "as fast as the service behind them; it was not asked")
    yield _estimate_training()


async def _measure_model(resources: Resources) -> Finding:
    model = resources.language_model
    try:
        async with asyncio.timeout(SECONDS):
            speed = await _read_and_write(model)
    except TimeoutError:
        told = f"{model.name} did not read a short text within {SECONDS:g} s"
        return Finding("Speed", "answers", State.WARN, told, "a hosted model is faster: LLM_BASE_URL")
    except TwinError as error:
        return Finding("Speed", "answers", State.WARN, f"not measured: {error}")
    finally:
        await model.close()
    quoted = resources.llm_profile.grounding == "quote"  # at once; the model is given the best part alone
    seconds = speed.estimate_sentence(1 if quoted else _PASSAGES)
    slow = seconds > _SLOW_SECONDS
    begins = f"a quotation at once, {model.name}'s own words" if quoted else f"{model.name}'s words"
    return Finding(
        "Speed",
        "answers",
        State.WARN if slow else State.OK,
        f"{begins} after about {seconds:.0f} s: it reads {speed.reading:.0f} and writes {speed.writing:.0f} tokens a second",
        "a hosted model is faster: LLM_BASE_URL" if slow else "",
    )


async def _read_and_write(model: LanguageModel) -> Speed:
    (tokens,) = await model.count_tokens([_PROMPT])
    options = GenerationOptions(max_tokens=12, timeout_seconds=SECONDS)
    started, first, pieces = time.perf_counter(), 0.0, 0
    async for delta in model.stream([Message("user", _PROMPT)], options):
        first = first or time.perf_counter()
        pieces += bool(delta.text)
    ended = time.perf_counter()
    return Speed(
        reading=tokens / max(first - started, 1e-6), writing=max(1, pieces - 1) / max(ended - first, 1e-6)
    )


def _estimate_training() -> Finding:
    seconds = measure_step_seconds()
    told = f"a step of the small model takes about {seconds:.0f} s here: {3600 / seconds:,.0f} steps an hour"
    return Finding("Speed", "training", State.OK, told)


def measure_step_seconds() -> float:
    """Return about how long a step of ``configs/training_sft.yaml`` takes on this processor, from half a second of products."""
    matrix = np.ones((_MATRIX, _MATRIX), dtype=np.float32)
    matrix @ matrix  # threads are started
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < 0.5:
        matrix @ matrix
        products += 1
    rate = 2 * _MATRIX**3 * products / (time.perf_counter() - started)
    return _TRAINING_FLOPS * _PARAMETERS * _STEP_TOKENS / (rate * _TRAINING_SHARE)
