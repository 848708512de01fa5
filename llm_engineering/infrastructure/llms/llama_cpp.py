"""A GGUF model run by llama.cpp inside this process.

llama.cpp's own server is started on a free loopback port with a key that only this object knows, and spoken to over
HTTP. Its direct calls would save nothing that can be measured, but cannot be left: a prompt that is being read goes on
to its end (55 s for 6,000 tokens), while a closed connection stops it after the current batch.
"""

import asyncio
import os
import re
import secrets
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llm_engineering.application.ports import Delta, GenerationOptions, Message
from llm_engineering.domain.errors import InvalidInputError, ModelFileError, ModelServiceError
from llm_engineering.domain.hints import POE
from llm_engineering.infrastructure.shared.openai_stream import (
    DONE,
    ReplyReader,
    error_message,
    event_data,
    request_body,
)

if TYPE_CHECKING:
    import httpx

_DEFAULT_OPTIONS = GenerationOptions()
_CONTROL_TOKEN = re.compile(r"<\|(\w+)\|>")
_PROMPT_BATCH = 512
"""Tokens of a prompt that are read at a time: a reply that is left ends within one such batch."""


class LlamaCppModel:
    """Generates with a GGUF file and the chat template it carries.

    ``context_tokens`` are shared by ``parallel`` replies at the same time. ``threads`` of 0: one less than there are
    cores. llama.cpp's threads wait for each other at every operator, so where something else runs beside it, one thread
    too many stalls all (2 cores, one of them busy: 7 tokens a second with 2 threads, 110 with 1). The model is loaded on
    first use; ``close`` frees it, and the next use loads it again.

    ``adapters`` are LoRA adapters in GGUF files, by the names to ask for them; the base is held once. Replies of different
    adapters are computed one after the other within a step, as one batch has one adapter.

    ``chat_template``: in place of the one that the file carries; None: the file's.
    """

    def __init__(
        self,
        model_path: Path,
        context_tokens: int = 4096,
        threads: int = 0,
        parallel: int = 1,
        name: str | None = None,
        adapters: Mapping[str, Path] = MappingProxyType({}),
        chat_template: str | None = None,
    ) -> None:
        self._file = model_path
        self._context = context_tokens
        self._threads = threads
        self._parallel = parallel
        self._name = name or model_path.stem
        self._adapters = dict(adapters)
        self._chat_template = chat_template
        self._lock = threading.Lock()
        self._server: Any = None
        self._key = ""

    @property
    def name(self) -> str:
        return self._name

    @property
    def names(self) -> tuple[str, ...]:
        """What may be asked for: the base, and each adapter over it."""
        return (self._name, *self._adapters)

    @property
    def context_tokens(self) -> int:
        """Tokens of one prompt with its reply."""
        return self._context // self._parallel

    async def stream(
        self, messages: Sequence[Message], options: GenerationOptions = _DEFAULT_OPTIONS
    ) -> AsyncIterator[Delta]:
        """Stream a reply. The model's control tokens in messages are defused: they stay text.

        Raises:
            InvalidInputError: the prompt does not fit into the context; says both numbers.
            ModelFileError: the file is missing or is not a model.
            ModelServiceError: the reply was not finished in time, or llama.cpp failed.
        """
        deadline = asyncio.get_running_loop().time() + options.timeout_seconds
        reader = ReplyReader(self._name, json_expected=options.json_schema is not None)
        try:
            async with aclosing(self._pieces(request_body(self._name, messages, options), reader)) as texts:
                while True:
                    # The deadline guards our waiting for the model, not the time our reader takes over a piece.
                    async with asyncio.timeout_at(deadline):
                        text = await anext(texts, None)
                    if text is None:
                        break
                    yield Delta(text=text)
        except TimeoutError:
            raise ModelServiceError(
                f"{self._name} did not finish within {options.timeout_seconds:g} s ({reader.progress}). "
                "Give it less text, fewer tokens to write, or more time.",
                reason="timeout",
            ) from None
        yield reader.make_closing_delta()

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return exact counts by the model's own tokenizer, without special tokens."""
        counts = []
        async with self._http() as client:
            for text in texts:
                response = await client.post("/tokenize", json={"content": text, "add_special": False})
                if not response.is_success:
                    raise ModelServiceError(
                        f"{self._name} could not count tokens: {error_message(response.text)[0]}"
                    )
                counts.append(len(response.json()["tokens"]))
        return counts

    async def load(self) -> None:
        """Load the model now.

        Raises:
            ModelFileError: the file is missing or is not a model.
        """
        await asyncio.to_thread(self._start)

    @asynccontextmanager
    async def stream_response(self, body: Mapping[str, Any]) -> "AsyncIterator[httpx.Response]":
        """Yield llama.cpp's own answer to a chat request in OpenAI's protocol, to be read as it comes. Leaving the
        block ends the generation. Control tokens in messages are defused. The request's ``model`` picks an adapter; any
        other name is the base.

        Raises:
            ModelFileError: the file is missing or is not a model.
        """
        safe = {
            **body,
            "model": self._name,
            "messages": _defused(body.get("messages")),
            "lora": self._scales(body.get("model")),
        }
        async with (
            self._http() as client,
            client.stream("POST", "/v1/chat/completions", json=safe) as response,
        ):
            yield response

    async def close(self) -> None:
        await asyncio.to_thread(self._stop)

    async def _pieces(self, body: dict[str, Any], reader: ReplyReader) -> AsyncGenerator[str, None]:
        import httpx

        try:
            async with self.stream_response(body) as response:
                if not response.is_success:
                    self._refused((await response.aread()).decode("utf-8", "replace"))
                async for line in response.aiter_lines():
                    data = event_data(line)
                    if data == DONE:
                        return
                    if data and (text := reader.read(data)):
                        yield text
        except httpx.TransportError as error:
            raise ModelServiceError(f"{self._name} stopped {reader.progress} ({error!r}).") from error

    def _scales(self, wanted: object) -> list[dict[str, float]]:
        """Every adapter with its scale: one that a request leaves out keeps whatever another has set, though llama.cpp's manual
        says 0 (its issue 28674; seen here too).
        """
        return [{"id": number, "scale": float(name == wanted)} for number, name in enumerate(self._adapters)]

    def _refused(self, body: str) -> None:
        message, kind = error_message(body)
        if "exceed_context_size" in kind:
            came = re.search(r"\((\d+) tokens\)", message)
            raise InvalidInputError(
                f"The prompt has {came[1] if came else 'too many'} tokens; {self._name} has a context of "
                f"{self.context_tokens}, reply included. Give it less text, or raise LLM_CONTEXT_TOKENS."
            )
        raise ModelServiceError(f"{self._name} refused the request: {message}")

    @asynccontextmanager
    async def _http(self) -> "AsyncIterator[httpx.AsyncClient]":
        """A client of its own for every use: on loopback it costs a millisecond, and no event loop owns it for long."""
        import httpx

        address = await asyncio.to_thread(self._start)
        headers = {"Authorization": f"Bearer {self._key}"}
        # trust_env: a proxy that is set for the internet must not get what stays on this machine. verify: there is no TLS
        # on loopback, and reading the authorities' certificates for each client would hold up the event loop for 0.1 s.
        async with httpx.AsyncClient(
            base_url=address, headers=headers, timeout=None, trust_env=False, verify=False
        ) as client:
            yield client

    def _start(self) -> str:
        with self._lock:
            if self._server is None:
                if not self._file.is_file():
                    raise ModelFileError(f"{self._file} is missing. Fetch it with: {POE} download-models")
                for name, file in self._adapters.items():
                    if not file.is_file():
                        raise ModelFileError(f"The adapter {name} is missing: there is no {file}.")
                self._key = secrets.token_urlsafe(32)
                self._server = self._load()
                self._wait_for_loop()
            return str(self._server.listening_address)

    def _wait_for_loop(self) -> None:
        """Wait for an answer out of llama.cpp's loop: a server that is ended before its loop has begun waits for it for ever."""
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"}
        address = f"{self._server.listening_address}/slots"
        httpx.get(address, headers=headers, timeout=None, trust_env=False, verify=False)

    def _load(self) -> Any:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(self._file)
        params.model_alias = {self._name}
        params.n_ctx = self._context
        params.n_parallel = self._parallel
        params.n_batch = _PROMPT_BATCH
        threads = self._threads or max(1, (os.cpu_count() or 2) - 1)
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.api_keys = [self._key]
        params.verbosity = -1  # nothing of llama.cpp's own log
        params.warmup = False
        params.fit_params = False  # the context stays what was asked for
        params.cache_ram_mib = 0  # else up to 8 GB of earlier prompts are kept; the slots' own cache stays
        params.ui = False
        # At 0 until a request asks for one; llama.cpp holds them beside the base, whose weights stay as they are.
        params.lora_adapters = [
            xllamacpp.CommonAdapterLoraInfo(str(file), 0.0) for file in self._adapters.values()
        ]
        if self._chat_template is not None:
            params.chat_template = self._chat_template
        try:
            return xllamacpp.Server(params)
        except (RuntimeError, ValueError) as error:
            raise ModelFileError(
                f"llama.cpp cannot run {self._file}{self._with_adapters()} ({error}). "
                f"If it is the bundled model: {POE} download-models --check"
            ) from error

    def _with_adapters(self) -> str:
        return f" with the adapters {', '.join(map(str, self._adapters.values()))}" if self._adapters else ""

    def _stop(self) -> None:
        with self._lock:
            self._server = None  # its destructor ends the threads and frees the model


def _defused(value: Any) -> Any:
    """Every text within ``value`` with the model's control tokens spelt as text."""
    if isinstance(value, str):
        return _CONTROL_TOKEN.sub(r"<| \1 |>", value)
    if isinstance(value, list):
        return [_defused(item) for item in value]
    if isinstance(value, dict):
        return {name: _defused(item) for name, item in value.items()}
    return value
