"""Language models, and what they have said already."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from llm_engineering.domain.retrieval import Usage


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    max_tokens: int = 512
    temperature: float = 0.0
    repetition_penalty: float = 1.0
    """What the logits of tokens that were said lately are divided by; 1: none. Of a server of llama.cpp."""
    seed: int | None = 0
    stop: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = None
    """When given, the reply is JSON that satisfies this schema."""
    timeout_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a reply. The last one has a finish reason and, where the service tells it, the usage."""

    text: str = ""
    finish_reason: Literal["stop", "length"] | None = None
    usage: Usage | None = None


class LanguageModel(Protocol):
    """Generates text. Leaving the stream early (closing the iterator) ends the generation.

    Raises:
        ModelServiceError: the service failed after the configured retries, timed out or answered nonsense.
    """

    @property
    def name(self) -> str: ...

    @property
    def context_tokens(self) -> int:
        """Tokens that prompt and reply may have together."""
        ...

    def stream(
        self, messages: Sequence[Message], options: GenerationOptions = GenerationOptions()
    ) -> AsyncIterator[Delta]: ...

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return exact counts where the tokenizer is at hand, else upper estimates."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Generation:
    """A language model's reply, as kept so that it is never paid for twice."""

    text: str
    usage: Usage | None = None


class GenerationCache(Protocol):
    """Replies by key. The key is derived from prompt, prompt hash, model, options and seed."""

    def get_many(self, keys: Sequence[str]) -> dict[str, Generation]:
        """Return the replies that are there, in one round trip."""
        ...

    def put_many(self, generations: Mapping[str, Generation]) -> None: ...
