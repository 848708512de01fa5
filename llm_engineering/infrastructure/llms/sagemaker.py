"""A language model on an Amazon SageMaker endpoint whose container speaks the messages API (TGI, LMI, vLLM)."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llm_engineering.application.ports import Delta, GenerationOptions, Message
from llm_engineering.domain.errors import InvalidInputError, MissingDependencyError, ModelServiceError
from llm_engineering.infrastructure.shared.aws import NO_CREDENTIALS, mask_ids, no_region
from llm_engineering.infrastructure.shared.openai_stream import (
    DONE,
    Lines,
    ReplyReader,
    error_message,
    event_data,
    request_body,
    tokens_at_most,
)
from llm_engineering.infrastructure.shared.retries import (
    OVERLOADED_STATUSES,
    RETRIED_STATUSES,
    RetryableError,
    RetryPolicy,
    retry_after_seconds,
)

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_DEFAULT_OPTIONS = GenerationOptions()
_CONNECTIONS = 128
"""Kept open for use again. More replies at a time work, each with a connection of its own."""
_DEPENDENCY_FAILED = 530
_MODEL_ERROR = 424
"""The container answered with an error, whose own status is told beside it."""
_TOO_LONG = re.compile(
    r"context.{0,20}(?:length|window|size)|max_new_tokens|max_total_tokens|too (?:long|many tokens)", re.I
)


class SageMakerModel:
    """Streams replies from an endpoint, with the credentials that AWS's own places hold (environment, profile, role).

    boto3 blocks, so each reply has a thread of its own; leaving a reply shuts its connection, which ends the thread and
    lets the container stop. ``timeout_seconds``: how long to wait for a connection and for the next piece; the whole
    reply has the time of its options. Busy or failing endpoints are asked again, ``max_retries`` times, until the first
    piece has come. Prices are in US dollars for a million tokens. The region and the address come from AWS's own
    configuration (``AWS_DEFAULT_REGION``, ``AWS_ENDPOINT_URL``) where they are not given.
    """

    def __init__(
        self,
        endpoint: str,
        inference_component: str | None = None,
        region: str | None = None,
        model: str = "",
        stream: bool = True,
        context_tokens: int = 4096,
        timeout_seconds: float = 60.0,
        max_retries: int = 3,
        prompt_price: float | None = None,
        completion_price: float | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._endpoint = endpoint
        self._component = inference_component
        self._region = region
        self._model = model or endpoint
        self._streams = stream
        self._context_tokens = context_tokens
        self._timeout = timeout_seconds
        self._lock = threading.Lock()
        self._client: Any = None
        self._attempts = RetryPolicy(
            f"The SageMaker endpoint {endpoint}"
            + (f" ({inference_component})" if inference_component else ""),
            "Check LLM_ENDPOINT and LLM_REGION, that the endpoint is InService, and AWS's credentials; or try again later.",
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
            InvalidInputError: the container says that the prompt is longer than its context.
            MissingDependencyError: boto3 is not installed.
            ModelServiceError: the endpoint failed after all retries, timed out, ended its stream early or answered
                nonsense; or AWS refused the request.
        """
        return self._attempts.stream_reply(lambda reader: self._attempt(messages, options, reader), options)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return an upper estimate: the container's tokenizer is not at hand."""
        return [tokens_at_most(text) for text in texts]

    async def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            await asyncio.to_thread(client.close)

    async def _attempt(
        self, messages: Sequence[Message], options: GenerationOptions, reader: ReplyReader
    ) -> AsyncGenerator[str, None]:
        """The texts of one reply."""
        body = request_body(self._model, messages, options)
        if not self._streams:
            body = {name: value for name, value in body.items() if not name.startswith("stream")}
        call = _Call(lambda: self._request(body), self._streams)
        lines = Lines()
        try:
            async for part in call.parts():
                for line in lines.feed(part) if part is not None else lines.end():
                    data = _data(line)
                    if data == DONE:
                        call.over = True
                        return
                    if data and (text := reader.read(data)):
                        yield text
            call.over = True
        except _Failure as failure:
            self._explain(failure.error)
        finally:
            call.leave()

    def _request(self, body: dict[str, Any]) -> Any:
        """Ask the endpoint. Blocks until its answer begins (a stream), or is there (no stream)."""
        parameters: dict[str, Any] = {
            "EndpointName": self._endpoint,
            "ContentType": "application/json",
            "Body": json.dumps(body).encode(),
        }
        if self._component is not None:
            parameters["InferenceComponentName"] = self._component
        client = self._opened()
        if self._streams:
            return client.invoke_endpoint_with_response_stream(**parameters)
        return client.invoke_endpoint(**parameters)

    def _opened(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise MissingDependencyError("boto3", "aws", "A language model on SageMaker") from error
        with self._lock:  # boto3's sessions are not made for threads; its clients are
            if self._client is None:
                config = Config(
                    connect_timeout=self._timeout,
                    read_timeout=self._timeout,
                    retries={"total_max_attempts": 1},  # tried again here, where it is known what was shown
                    max_pool_connections=_CONNECTIONS,
                    tcp_keepalive=True,
                )
                session = boto3.Session(region_name=self._region)
                self._client = session.client("sagemaker-runtime", config=config)
            return self._client

    def _explain(self, error: Exception) -> None:
        """Raise what boto3, urllib3 or the stream's decoder raised in our words.

        Raises:
            RetryableError: it may pass.
            InvalidInputError, ModelServiceError: it will not.
        """
        from botocore import exceptions
        from urllib3.exceptions import ReadTimeoutError

        if isinstance(error, exceptions.ClientError):  # errors in mid-stream are of this kind too
            self._explain_refusal(error)
        elif isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
            raise ModelServiceError(f"{self._attempts.service} cannot be asked: {NO_CREDENTIALS}") from error
        elif isinstance(error, exceptions.NoRegionError):
            raise ModelServiceError(
                f"{self._attempts.service} cannot be asked: {no_region('LLM_REGION')}"
            ) from error
        elif isinstance(
            error, exceptions.ReadTimeoutError | exceptions.ConnectTimeoutError | ReadTimeoutError
        ):
            raise RetryableError(
                f"{type(error).__name__} after {self._timeout:g} s", reason="timeout"
            ) from error
        elif isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
            raise RetryableError(mask_ids(f"{type(error).__name__}: {error}")) from error
        elif isinstance(error, exceptions.BotoCoreError):  # profiles, tokens, parameters
            raise ModelServiceError(
                f"{self._attempts.service} cannot be asked: {mask_ids(str(error))} {self._attempts.hint}"
            ) from error
        elif isinstance(error, MissingDependencyError):
            raise error
        else:
            raise RetryableError(f"the connection broke ({type(error).__name__})") from error

    def _explain_refusal(self, error: "ClientError") -> None:
        answer: dict[str, Any] = dict(error.response)
        told = answer.get("Error", {})
        http = answer.get("ResponseMetadata", {})
        code, status = str(told.get("Code", "")), int(http.get("HTTPStatusCode", 0))
        message = str(told.get("Message") or code)
        if status == _MODEL_ERROR:
            status = int(answer.get("OriginalStatusCode") or 500)
            message = error_message(str(answer.get("OriginalMessage") or message))[0]
        problem = mask_ids(f"{code or status}: {message}")
        in_stream = "HTTPStatusCode" not in http or http["HTTPStatusCode"] == 200
        if status in RETRIED_STATUSES or status == _DEPENDENCY_FAILED or in_stream:
            header = http.get("HTTPHeaders", {}).get("retry-after")
            busy = status in OVERLOADED_STATUSES
            raise RetryableError(
                problem, retry_after_seconds(header, datetime.now(UTC)), "busy" if busy else "failed"
            ) from error
        if _TOO_LONG.search(message):
            raise InvalidInputError(
                f"The prompt is too long for {self._model}: {problem}. Give it less text."
            ) from error
        raise ModelServiceError(
            f"{self._attempts.service} refused the request with {status}, {problem}. {self._attempts.hint}"
        ) from error


class _Failure(Exception):
    """What went wrong in the thread."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Call:
    """One request in a thread of its own, its bytes handed to the event loop as they come."""

    def __init__(self, request: Callable[[], Any], streams: bool) -> None:
        self._request = request
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._lock = threading.Lock()
        self._left = False
        self._body: Any = None
        self.over = False
        # Not a pool: a call that nobody waits for any more may hang until its time-out, and must hold up neither other
        # replies nor the end of the process.
        threading.Thread(target=self._run, name="sagemaker", daemon=True).start()

    async def parts(self) -> AsyncGenerator[bytes | None, None]:
        """Yield the parts of the payload, then None.

        Raises:
            _Failure: the request, or reading its answer, failed.
        """
        part: bytes | Exception | None = b""
        while part is not None:
            part = await self._queue.get()
            if isinstance(part, Exception):
                raise _Failure(part)
            yield part

    def leave(self) -> None:
        """End the call. Its connection is shut where the answer has begun, else as soon as it begins; unless the answer is
        ``over``, whose last bytes are read so that the connection can serve again."""
        with self._lock:
            self._left = not self.over
            body = self._body
        if self._left and body is not None:
            _shut(body)

    def _run(self) -> None:
        try:
            for part in self._read():
                self._put(part)
            self._put(None)
        except Exception as error:  # noqa: BLE001  handed over to the one who waits, who explains or raises it
            self._put(error)

    def _read(self) -> Iterator[bytes]:
        body = self._request()["Body"]
        with self._lock:
            self._body = body
            left = self._left
        try:
            if left:
                _shut(body)
            elif self._streams:
                for event in body:
                    if self._left:
                        return
                    yield event.get("PayloadPart", {}).get("Bytes", b"")
            else:
                yield b"data: " + body.read().replace(b"\n", b" ")
        finally:
            with self._lock:
                self._body = None  # nothing is shut any more once its connection may serve another call
            body.close()

    def _put(self, item: bytes | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


def _shut(body: Any) -> None:
    """Shut a body's connection from another thread than the one that reads it, which wakes that one up.

    ``close`` would wait for the reader. botocore has no public way to its urllib3 response.
    """
    response = getattr(body, "_raw_stream", None)
    with suppress(OSError, ValueError, RuntimeError):  # it ended meanwhile
        if response is not None:
            response.shutdown()


def _data(line: str) -> str | None:
    """The data of a line: of server-sent events, or of LMI's JSON Lines."""
    return line if line.startswith("{") else event_data(line)
