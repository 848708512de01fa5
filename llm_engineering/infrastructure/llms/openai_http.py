"""A language model behind any OpenAI-compatible ``/chat/completions`` endpoint."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llm_engineering.application.ports import Delta, GenerationOptions, Message
from llm_engineering.domain.errors import InvalidInputError, ModelServiceError
from llm_engineering.infrastructure.shared.openai_stream import (
    DONE,
    ReplyReader,
    error_message,
    event_data,
    request_body,
    tokens_at_most,
)
from llm_engineering.infrastructure.shared.retries import (
    OVERLOADED_STATUSES,
    RETRIED_STATUSES,
    Reason,
    RetryableError,
    RetryPolicy,
    retry_after_seconds,
)

if TYPE_CHECKING:
    import httpx

_DEFAULT_OPTIONS = GenerationOptions()


class OpenAIHttpModel:
    """Streams replies from OpenAI, vLLM, TGI, Ollama, llama-server and the like.

    ``timeout_seconds``: how long to wait for a connection, and for the next piece of a reply; the whole reply has the
    time of its options. Busy or failing services are asked again, ``max_retries`` times, until the first piece has
    come: what was shown cannot be taken back. The key goes into a header and nowhere else. Prices are in US dollars for a
    million tokens. ``settings``: the group of settings that messages tell to check.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        model: str,
        context_tokens: int = 16_384,
        timeout_seconds: float = 60.0,
        max_retries: int = 3,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        prompt_price: float | None = None,
        completion_price: float | None = None,
        settings: str = "LLM",
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._model = model
        self._context_tokens = context_tokens
        self._timeout = timeout_seconds
        self._check = f"Check {settings}_BASE_URL, {settings}_API_KEY and {settings}_MODEL"
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        parts = urlsplit(base_url)
        self._attempts = RetryPolicy(
            f"The language model at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
            f"{self._check}, or try again later.",
            max_retries,
            prompt_price,
            completion_price,
            sleep,
        )

    @property
    def name(self) -> str:
        return self._model

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    def stream(
        self, messages: Sequence[Message], options: GenerationOptions = _DEFAULT_OPTIONS
    ) -> AsyncGenerator[Delta, None]:
        """Stream a reply.

        Raises:
            InvalidInputError: the service says that the prompt is longer than its context.
            ModelServiceError: the service failed after all retries, timed out, ended its stream early or answered
                nonsense.
        """
        return self._attempts.stream_reply(lambda reader: self._attempt(messages, options, reader), options)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return an upper estimate: the service's tokenizer is not at hand."""
        return [tokens_at_most(text) for text in texts]

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def _attempt(
        self, messages: Sequence[Message], options: GenerationOptions, reader: ReplyReader
    ) -> AsyncGenerator[str, None]:
        """The pieces of one reply."""
        import httpx

        body = request_body(self._model, messages, options)
        try:
            async with self._http().stream("POST", "/chat/completions", json=body) as response:
                if not response.is_success:
                    await self._raise_refusal(response)
                async for line in response.aiter_lines():
                    data = event_data(line)
                    if data == DONE:
                        return
                    if data and (text := reader.read(data)):
                        yield text
        except httpx.TransportError as error:
            late: Reason = "timeout" if isinstance(error, httpx.TimeoutException) else "failed"
            raise RetryableError(f"{type(error).__name__}: {error}".rstrip(": "), reason=late) from error

    async def _raise_refusal(self, response: "httpx.Response") -> None:
        message, kind = error_message((await response.aread()).decode("utf-8", "replace"))
        if response.status_code in RETRIED_STATUSES:
            asked = retry_after_seconds(response.headers.get("retry-after"), datetime.now(UTC))
            busy = response.status_code in OVERLOADED_STATUSES
            raise RetryableError(f"{response.status_code}: {message}", asked, "busy" if busy else "failed")
        if "context" in kind:
            raise InvalidInputError(
                f"The prompt is too long for {self._model}: {message}. Give it less text."
            )
        raise ModelServiceError(
            f"{self._attempts.service} refused the request with {response.status_code}: {message}. "
            f"{self._check}."
        )

    def _add_key(self, request: "httpx.Request") -> "httpx.Request":
        request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request

    def _http(self) -> "httpx.AsyncClient":
        """The client of the running event loop: its connections cannot be used from another one."""
        import httpx

        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            # As "auth" and not as a header of the client: else credentials in the address would replace it.
            auth = self._add_key if self._api_key else None
            self._client = httpx.AsyncClient(base_url=self._base_url, auth=auth, timeout=self._timeout)
            self._loop = loop
        return self._client
