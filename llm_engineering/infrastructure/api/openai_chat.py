"""Between OpenAI's chat completions and the pipeline: messages to a question, events to chunks."""

import re
import time
from typing import Any, Final

from pydantic_core import to_json

from llm_engineering.application.inference.pipeline import (
    Checked,
    Event,
    Finished,
    Piece,
    RagRequest,
    Sources,
)
from llm_engineering.application.inference.retriever import RetrievalConfig
from llm_engineering.application.ports import Message
from llm_engineering.domain.inference import RagResult
from llm_engineering.domain.retrieval import Answer, Usage
from llm_engineering.infrastructure.api.errors import Problem, ProblemError
from llm_engineering.infrastructure.api.parts import SERVED_NAME
from llm_engineering.infrastructure.api.schemas.openai import (
    AssistantMessage,
    ChatBody,
    ChatCompletion,
    Choice,
    ChunkChoice,
    ChunkDelta,
    Content,
    InstructionMessage,
    ReplyMessage,
    TokenUsage,
    TwinAnswer,
    UserMessage,
)
from llm_engineering.infrastructure.api.schemas.rag import MAX_TURNS, drop_nulls
from llm_engineering.infrastructure.api.streaming import format_unnamed

SOURCES_TITLE: Final = "Sources:"
MAX_INSTRUCTION_CHARACTERS: Final = 8_000
# Possessive (*+): a line of blanks must not be tried at each of its characters.
_SOURCES_LIST: Final = re.compile(rf"\n\n{SOURCES_TITLE}(?:\n\[\d+\] [^\n]*+)+\s*\Z")
DONE: Final = format_unnamed("[DONE]")


def to_request(body: ChatBody, defaults: RetrievalConfig) -> RagRequest:
    """Return the conversation as the pipeline takes it: instructions, earlier turns, and the last message as the
    question.

    Of a long conversation the last turns are taken.

    Raises:
        ProblemError: the last message is not the user's, or the instructions are too long.
        InvalidInputError: the question is empty or too long.
    """
    *earlier, last = body.messages
    if not isinstance(last, UserMessage):
        raise _refused(
            f"messages[{len(earlier)}]", "The last message must be the user's: it is the question."
        )
    instructions = "\n\n".join(_text(m.content) for m in earlier if isinstance(m, InstructionMessage))
    if len(instructions) > MAX_INSTRUCTION_CHARACTERS:
        raise _refused(
            "messages",
            f"The system and developer messages have {len(instructions):,} characters together; at most "
            f"{MAX_INSTRUCTION_CHARACTERS:,} are taken.",
        )
    return RagRequest(
        query=body.twin.to_query(_text(last.content), defaults),
        history=tuple(_turn(message) for message in earlier if not isinstance(message, InstructionMessage))[
            -MAX_TURNS:
        ],
        instructions=instructions,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        seed=body.seed,
        model=None if body.model == SERVED_NAME else body.model,
    )


def _refused(param: str, message: str) -> ProblemError:
    return ProblemError(Problem(400, "invalid_request", message, param=param))


def _turn(message: UserMessage | AssistantMessage) -> Message:
    text = _text(message.content)
    if message.role == "assistant":
        text = without_sources(text)
    return Message(message.role, text)


def _text(content: Content) -> str:
    return drop_nulls(content if isinstance(content, str) else "\n".join(part.text for part in content))


def sources_text(answer: Answer) -> str:
    """Return the list of the sources that an answer cites, to stand below it; empty where it cites none."""
    cited = [citation for citation in answer.citations if citation.number in answer.cited]
    lines = [f"[{c.number}] {_one_line(c.passage.title, c.passage.link)}" for c in cited]
    return "\n".join(["", "", SOURCES_TITLE, *lines]) if lines else ""


def without_sources(text: str) -> str:
    """Return an earlier answer as it was, without the list of sources that :func:`sources_text` has put below it."""
    return _SOURCES_LIST.sub("", text)


def _one_line(title: str, link: str) -> str:
    named = " ".join(title.split())
    place = "".join(link.split())
    return f"{named} — {place}" if named else place


def token_usage(usage: Usage) -> TokenUsage:
    """Return tokens as OpenAI counts them."""
    return TokenUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def twin_answer(result: RagResult) -> TwinAnswer:
    """Return the field ``twin`` of a response."""
    answer = result.answer
    shared = {name: getattr(answer, name) for name in TwinAnswer.model_fields if hasattr(answer, name)}
    return TwinAnswer(
        trace_id=result.trace_id, provenance=result.provenance, timings=result.timings, **shared
    )


def completion_id(trace_id: str) -> str:
    """Return the completion's id, which tells the trace, by which a vote on it can be sent."""
    return f"chatcmpl-{trace_id}"


def to_completion(result: RagResult, body: ChatBody) -> ChatCompletion:
    """Return a finished answer as a chat completion."""
    answer = result.answer
    text = answer.text + (sources_text(answer) if body.twin.sources_in_text else "")
    return ChatCompletion(
        id=completion_id(result.trace_id),
        created=int(time.time()),
        model=body.model,
        choices=(Choice(message=ReplyMessage(content=text), finish_reason=answer.finish_reason),),
        usage=token_usage(answer.usage),
        twin=twin_answer(result),
    )


class Chunks:
    """Encodes the events of one answer as the chunks of a completion.

    First the role; then text; then the finish reason, with the field ``twin``; then, where it was asked for, the usage
    with no choices; then ``[DONE]``.
    """

    def __init__(self, body: ChatBody) -> None:
        self._body = body
        self._with_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._created = int(time.time())
        self._id = ""

    def __call__(self, item: Event) -> bytes:
        """An event's chunks, ready to send; empty where the protocol has none for it."""
        match item:
            case Sources():
                self._id = completion_id(item.trace_id)
                return self._chunk(ChunkDelta(role="assistant", content=""))
            case Piece():
                return self._chunk(ChunkDelta(content=item.text))
            case Checked():
                return b""
            case Finished():
                return self._ending(item.result)

    def _ending(self, result: RagResult) -> bytes:
        answer = result.answer
        listed = sources_text(answer) if self._body.twin.sources_in_text else ""
        frames = [self._chunk(ChunkDelta(content=listed))] if listed else []
        twin = twin_answer(result).model_dump(mode="json")
        frames.append(self._chunk(ChunkDelta(), answer.finish_reason, twin=twin))
        if self._with_usage:
            frames.append(self._frame(choices=[], usage=token_usage(answer.usage).model_dump()))
        return b"".join([*frames, DONE])

    def _chunk(self, delta: ChunkDelta, finish_reason: Any = None, **extra: Any) -> bytes:
        choice = ChunkChoice(delta=delta, finish_reason=finish_reason).model_dump()
        # A delta holds what is new, and nothing for what is not.
        choice["delta"] = delta.model_dump(exclude_none=True)
        return self._frame(choices=[choice], **extra)

    def _frame(self, **fields: Any) -> bytes:
        frame = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._body.model,
            **({"usage": None} if self._with_usage else {}),
            **fields,
        }
        return format_unnamed(to_json(frame).decode())
