"""A language model's reply as JSON: constrained by a schema, limited in time, and checked to be whole."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_engineering.application.ports import Delta, GenerationOptions, LanguageModel, Message
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, ModelServiceError
from llm_engineering.domain.retrieval import Usage


@dataclass(frozen=True, slots=True)
class JsonReply:
    value: dict[str, Any]
    usage: Usage


async def ask_json(
    model: LanguageModel,
    messages: Sequence[Message],
    schema: Mapping[str, Any],
    *,
    max_tokens: int,
    timeout_seconds: float,
    temperature: float = 0.0,
    seed: int | None = 0,
) -> JsonReply:
    """Return one JSON object from the model. The schema constrains it; the caller still checks what it says.

    Raises:
        ModelServiceError: the model failed, cannot be used, took longer than ``timeout_seconds``, was cut, or answered
            something else than a JSON object.
    """
    options = GenerationOptions(
        max_tokens=max_tokens,
        json_schema=schema,
        timeout_seconds=timeout_seconds,
        temperature=temperature,
        seed=seed,
    )
    try:
        async with asyncio.timeout(timeout_seconds):
            text, last = await _collect(model.stream(messages, options))
    except TimeoutError:
        raise ModelServiceError(
            f"{model.name} did not answer within {timeout_seconds:g} s. Allow it more time, or choose a faster model."
        ) from None
    except (InvalidInputError, ConfigurationError) as error:
        # Here the prompt is the program's own; that it does not fit is no fault of the caller.
        raise ModelServiceError(str(error)) from error
    if last is not None and last.finish_reason == "length":
        raise ModelServiceError(
            f"{model.name}: its reply was cut at {max_tokens} tokens; expected a whole JSON object."
        )
    try:
        value = json.loads(text)
    except ValueError:
        raise ModelServiceError(f"{model.name} answered no JSON: {text[:200]!r}") from None
    if not isinstance(value, dict):
        raise ModelServiceError(f"{model.name} answered {type(value).__name__}; expected a JSON object.")
    return JsonReply(value, last.usage or Usage() if last is not None else Usage())


async def _collect(stream: AsyncIterator[Delta]) -> tuple[str, Delta | None]:
    parts: list[str] = []
    last: Delta | None = None
    try:
        async for delta in stream:
            parts.append(delta.text)
            if delta.finish_reason is not None or delta.usage is not None:
                last = Delta(
                    finish_reason=delta.finish_reason or (last.finish_reason if last else None),
                    usage=delta.usage or (last.usage if last else None),
                )
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:  # leaving early ends the generation
            await close()
    return "".join(parts), last


class UnusableReplyError(ValueError):
    """A reply is not what was asked for. The message says what was expected."""


def parse_json_object(text: str) -> dict[str, Any]:
    """Parse a reply that should be a JSON object.

    Raises:
        UnusableReplyError: it is not one.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise UnusableReplyError(f"no JSON: {text[:200]!r}") from None
    if not isinstance(value, dict):
        raise UnusableReplyError(f"no JSON object: {text[:200]!r}")
    return value
