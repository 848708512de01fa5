"""OpenAI's chat protocol, as its clients here use it: what is sent, and how the stream of events is read.

Pure functions over strings, so that every adapter that speaks it reads it alike.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llm_engineering.application.ports import Delta, GenerationOptions, Message
from llm_engineering.domain.errors import ModelServiceError
from llm_engineering.domain.retrieval import Usage

DONE = "[DONE]"

_SPACES = np.array([ord(c) for c in map(chr, range(0x3001)) if c.isspace()], dtype=np.uint32)
_ASCII_LETTERS_PER_TOKEN = 3


def request_body(model: str, messages: Sequence[Message], options: GenerationOptions) -> dict[str, Any]:
    """Return the JSON body of a streaming ``/chat/completions`` request."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if options.seed is not None:
        body["seed"] = options.seed
    if options.repetition_penalty != 1:
        body["repeat_penalty"] = options.repetition_penalty
    if options.stop:
        body["stop"] = list(options.stop)
    if options.json_schema is not None:
        schema = {"name": "reply", "strict": True, "schema": dict(options.json_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def event_data(line: str) -> str | None:
    """Return the data of a line of server-sent events; None for comments, blank lines and other fields."""
    return line[5:].strip() if line.startswith("data:") else None


def error_message(body: str) -> tuple[str, str]:
    """Return (message, type or code) of an error answer, or of an error event; the text itself where it has another
    shape."""
    try:
        error = json.loads(body).get("error")
    except (ValueError, AttributeError):
        return body[:300], ""
    if isinstance(error, dict):
        return str(error.get("message", error))[:300], str(error.get("code") or "") + " " + str(
            error.get("type") or ""
        )
    return str(error or body)[:300], ""


class Lines:
    """Lines of UTF-8 out of bytes that were cut anywhere, in the middle of a character too."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are complete with these bytes, without their ends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode("utf-8", "replace").rstrip("\r") for line in lines]

    def end(self) -> list[str]:
        """Return what came after the last line break."""
        rest, self._rest = self._rest, b""
        return [rest.decode("utf-8", "replace")] if rest else []


class ReplyReader:
    """Reads the events of one reply, and knows how far it came.

    The end is told by the finish reason; the usage may come after it, in an event of its own, so ``last`` gives the
    closing delta once the stream has ended.
    """

    def __init__(self, service: str, *, json_expected: bool = False) -> None:
        self._service = service
        self._json_expected = json_expected
        self._text: list[str] = []
        self._half = ""
        self._finish: Literal["stop", "length"] | None = None
        self._usage: Usage | None = None
        self.started = False

    def read(self, data: str) -> str:
        """Take in one event's data and return the text it adds, which may be empty.

        Raises:
            ModelServiceError: the event is an error, or cannot be understood.
        """
        try:
            event = json.loads(data)
            if "error" in event:
                raise ModelServiceError(f"{self._service} failed {self.progress}: {error_message(data)[0]}")
            if usage := event.get("usage"):
                self._usage = Usage(
                    prompt_tokens=usage.get("prompt_tokens") or 0,
                    completion_tokens=usage.get("completion_tokens") or 0,
                )
            text = ""
            for choice in (event.get("choices") or [])[:1]:
                # A service that does not stream has a whole message where others have a delta.
                text = (choice.get("delta") or choice.get("message") or {}).get("content") or ""
                text = self._whole_characters(text) if text else ""
                if reason := choice.get("finish_reason"):
                    self._finish = "length" if reason == "length" else "stop"
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelServiceError(
                f"{self._service} sent an event that is not a chat completion chunk {self.progress}: {data[:200]!r}"
            ) from error
        if text:
            self.started = True
            self._text.append(text)
        return text

    def _whole_characters(self, text: str) -> str:
        """Text without halves of characters, which nothing could send on.

        JSON writes an emoji as two halves, and some services cut between them: a first half waits for its second one. A
        half that stays alone becomes U+FFFD.
        """
        text, self._half = self._half + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def make_closing_delta(self) -> Delta:
        """Return the closing delta.

        Raises:
            ModelServiceError: the stream ended before the reply did, or JSON was asked for and none came.
        """
        if self._finish is None:
            raise ModelServiceError(
                f"{self._service} ended its stream before the reply was finished {self.progress}."
            )
        if self._json_expected and self._finish == "stop":
            text = "".join(self._text)
            try:
                json.loads(text)
            except ValueError as error:
                raise ModelServiceError(
                    f"{self._service} was asked for JSON and answered something else ({error}): {text[:200]!r}"
                ) from error
        return Delta(finish_reason=self._finish, usage=self._usage)

    @property
    def progress(self) -> str:
        """How much has come, for error messages."""
        characters = sum(map(len, self._text))
        return (
            f"after {characters:,} characters of the reply"
            if characters
            else "before the first word of the reply"
        )


def tokens_at_most(text: str) -> int:
    """Return an upper estimate of a text's tokens for a model whose tokenizer is not at hand.

    Byte-pair encoders need at most a token per three letters of ordinary words, one per digit, line break and run of
    blanks, and one per byte of everything else that is rare. On articles, code and five other scripts it came out 1.1 to
    1.9 times SmolLM2's own count, never below.
    """
    # Arrays instead of a regular expression: prompts have tens of thousands of characters, and nobody else runs meanwhile.
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    folded = codes | 32
    letters = (folded >= ord("a")) & (folded <= ord("z")) & (codes < 128)
    blanks = (codes == ord(" ")) | (codes == ord("\t"))
    breaks = codes == ord("\n")
    spaces = blanks | breaks | np.isin(codes, _SPACES)
    rest = codes[~(letters | spaces)]  # digits among them, at a byte each
    bytes_ = 1 + (rest > 0x7F).astype(np.int64) + (rest > 0x7FF) + (rest > 0xFFFF)
    words = -(-_runs(letters) // _ASCII_LETTERS_PER_TOKEN)
    return int(words.sum() + bytes_.sum() + breaks.sum() + (_runs(blanks) > 1).sum())


def _runs(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Lengths of the runs of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    lengths: npt.NDArray[np.int64] = edges[1::2] - edges[::2]
    return lengths
