"""A language model that says what it was told to say, in pieces, and remembers what it was asked."""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from llm_engineering.application.ports import Delta, GenerationOptions, Message
from llm_engineering.domain.errors import InvalidInputError, ModelServiceError
from llm_engineering.domain.retrieval import Usage

_WORD = re.compile(r"\s*\S+\s*$|\s*\S+")
_DEFAULT_OPTIONS = GenerationOptions()


@dataclass(frozen=True)
class Reply:
    """One scripted reply."""

    text: str = ""
    finish_reason: Literal["stop", "length"] = "stop"
    fail_after: int | None = None
    """Raise ``error`` after that many pieces; 0: before the first."""
    error: str = "the scripted service failed"
    seconds_per_piece: float = 0.0


@dataclass
class Call:
    """What the model was asked, and how far its reply was read."""

    messages: tuple[Message, ...]
    options: GenerationOptions
    pieces: int = 0
    finished: bool = False
    """The last piece was handed out. False after a failure, and where the reader left early."""
    cancelled: bool = False
    """The reader left early: the stream was closed, or its task cancelled."""


class ScriptedLanguageModel:
    """Replies in the order queued; ``default`` (a text, or a function of the messages) answers once the queue is empty.

    A reply is streamed word by word, with its blank space. A token is a word. Text beyond ``max_tokens`` words is cut
    with the finish reason ``length``, as a real model does.
    """

    def __init__(
        self,
        replies: Iterable[Reply | str] = (),
        *,
        default: str | Callable[[Sequence[Message]], str] | None = None,
        name: str = "scripted",
        context_tokens: int = 4096,
    ) -> None:
        self._replies = deque(_reply(reply) for reply in replies)
        self._default = default
        self._name = name
        self._context_tokens = context_tokens
        self.calls: list[Call] = []
        self.closed = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    def queue(self, *replies: Reply | str) -> None:
        """Add replies to the end of the queue."""
        self._replies.extend(_reply(reply) for reply in replies)

    async def stream(
        self, messages: Sequence[Message], options: GenerationOptions = _DEFAULT_OPTIONS
    ) -> AsyncIterator[Delta]:
        """Stream the next reply.

        Raises:
            InvalidInputError: the prompt leaves no room for a reply in the context.
            ModelServiceError: the reply was scripted to fail, or took longer than ``timeout_seconds``.
            AssertionError: nothing was scripted for this call.
        """
        call = Call(tuple(messages), options)
        self.calls.append(call)
        prompt = sum(_count(message.content) for message in messages)
        if prompt >= self._context_tokens:
            raise InvalidInputError(
                f"The prompt has {prompt} tokens; {self._name} has a context of {self._context_tokens}, "
                "reply included. Give it less text."
            )
        reply = self._next(messages)
        pieces = [match.group() for match in _WORD.finditer(reply.text)]
        kept = pieces[: options.max_tokens]
        deadline = asyncio.get_running_loop().time() + options.timeout_seconds
        try:
            for piece in kept:
                async with asyncio.timeout_at(deadline):
                    await asyncio.sleep(reply.seconds_per_piece)
                if reply.fail_after == call.pieces:
                    break
                call.pieces += 1
                yield Delta(text=piece)
        except TimeoutError:
            raise ModelServiceError(
                f"{self._name} did not finish within {options.timeout_seconds:g} s ({call.pieces} pieces came).",
                reason="timeout",
            ) from None
        except (GeneratorExit, asyncio.CancelledError):
            call.cancelled = True
            raise
        if reply.fail_after is not None and call.pieces >= reply.fail_after:
            raise ModelServiceError(f"{self._name}: {reply.error} ({call.pieces} pieces came).")
        call.finished = True
        reason = "length" if len(kept) < len(pieces) else reply.finish_reason
        yield Delta(finish_reason=reason, usage=Usage(prompt_tokens=prompt, completion_tokens=len(kept)))

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words of each text."""
        return [_count(text) for text in texts]

    async def close(self) -> None:
        self.closed += 1

    def _next(self, messages: Sequence[Message]) -> Reply:
        if self._replies:
            return self._replies.popleft()
        assert self._default is not None, "the script has no reply left and no default"
        return Reply(self._default(messages) if callable(self._default) else self._default)


def _reply(reply: Reply | str) -> Reply:
    return Reply(reply) if isinstance(reply, str) else reply


def _count(text: str) -> int:
    return len(text.split())
