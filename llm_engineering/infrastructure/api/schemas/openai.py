"""The chat completions of OpenAI's API, as far as a twin can keep what they promise.

A parameter that would change what the answer is, and that the twin cannot honour, is refused; its neutral values, and
parameters that only label or route a request, are taken. Fields and meanings follow OpenAI's public API reference.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, WithJsonSchema

from llm_engineering.domain.inference import ResponseProvenance
from llm_engineering.domain.retrieval import Citation, Support
from llm_engineering.infrastructure.api.schemas.rag import (
    MAX_SEED,
    MAX_TOKENS,
    MAX_TURN_CHARACTERS,
    Request,
    SearchOptions,
)

MAX_MESSAGES: Final = 1_000
MAX_PARTS: Final = 100
MAX_LABEL: Final = 512

Label = Annotated[str, Field(max_length=MAX_LABEL)]
Text = Annotated[str, Field(max_length=MAX_TURN_CHARACTERS)]


def _only_false(value: bool) -> bool:
    if value:
        raise ValueError("only false")
    return value


# Not Literal[False], which equals 0 and so takes it.
False_ = Annotated[bool, AfterValidator(_only_false), WithJsonSchema({"type": "boolean", "const": False})]
Empty = Annotated[tuple[()], Field(description="Only empty.")]


class TextPart(Request):
    """A part of a message. Images, audio and files are not read."""

    type: Literal["text"]
    text: Text


def _content_tag(value: object) -> str:
    return "<text>" if isinstance(value, str) else "<parts>"


def _role_tag(value: object) -> str | None:
    role = value.get("role") if isinstance(value, dict) else getattr(value, "role", None)
    tags = {
        "system": "<instruction>",
        "developer": "<instruction>",
        "user": "<user>",
        "assistant": "<assistant>",
    }
    return tags.get(role) if isinstance(role, str) else None


# Tags in angle brackets are left out where an error names the field at fault.
Content = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[
        tuple[TextPart, ...], Field(fail_fast=True, min_length=1, max_length=MAX_PARTS), Tag("<parts>")
    ],
    Discriminator(_content_tag),
]


class InstructionMessage(Request):
    """What the calling application asks for. It is heard, but below the service's own rules."""

    role: Literal["system", "developer"]
    content: Content
    name: Label | None = None


class UserMessage(Request):
    role: Literal["user"]
    content: Content
    name: Label | None = None


class AssistantMessage(Request):
    """An earlier answer, as the service or another one gave it."""

    role: Literal["assistant"]
    content: Content
    name: Label | None = None
    refusal: Label | None = None
    annotations: tuple[Any, ...] | None = Field(default=None, max_length=MAX_PARTS)
    audio: None = None
    function_call: None = None
    tool_calls: Empty | None = None


ChatMessage = Annotated[
    Annotated[InstructionMessage, Tag("<instruction>")]
    | Annotated[UserMessage, Tag("<user>")]
    | Annotated[AssistantMessage, Tag("<assistant>")],
    Discriminator(
        _role_tag,
        custom_error_type="unknown_role",
        custom_error_message="expected a message with one of the roles system, developer, user and assistant",
    ),
]


class StreamOptions(Request):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextFormat(Request):
    type: Literal["text"]


class TwinOptions(SearchOptions):
    """What OpenAI's API has no field for."""

    sources_in_text: bool = Field(
        default=True, description="End the message with a list of the sources that it cites."
    )


class ChatBody(Request):
    """A chat completion. The last message is the question; earlier ones are the conversation it stands in."""

    model: str = Field(min_length=1, max_length=MAX_LABEL, examples=["llm-twin"])
    messages: Annotated[tuple[ChatMessage, ...], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    twin: TwinOptions = TwinOptions()

    # Labels and hints: taken, and without effect.
    user: Label | None = None
    metadata: Annotated[dict[Label, Label], Field(max_length=16)] | None = None
    store: bool | None = None
    service_tier: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Label | None = None
    parallel_tool_calls: bool | None = None

    # Only the values that ask for nothing: the others would change the answer, and are refused.
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    top_p: Annotated[float, Field(ge=1, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logprobs: False_ | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, int], Field(max_length=0)] | None = None
    stop: Empty | None = None
    modalities: tuple[Literal["text"]] | None = None
    response_format: TextFormat | None = None
    tools: Empty | None = None
    tool_choice: Literal["none", "auto"] | None = None
    functions: Empty | None = None
    function_call: Literal["none", "auto"] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: Literal["medium"] | None = None


REFUSED: Final = frozenset(
    {
        "n",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "stop",
        "modalities",
        "response_format",
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "audio",
        "prediction",
        "web_search_options",
        "reasoning_effort",
        "verbosity",
    }
)
"""Parameters that are known and have one value here."""


# --- responses --------------------------------------------------------------------------------------------------------


class OpenAIErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorBody(BaseModel):
    """What went wrong, as OpenAI's clients read it. The request id is in the header ``X-Request-ID``."""

    error: OpenAIErrorDetail


class TokenUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TwinAnswer(BaseModel):
    """What OpenAI's API has no field for. Offsets in ``supports`` count within the answer, before the list of sources."""

    trace_id: str
    citations: tuple[Citation, ...]
    cited: tuple[int, ...]
    supports: tuple[Support, ...]
    abstained: bool
    quoted: bool
    unsupported: int
    guard: tuple[str, ...]
    model: str
    prompt_hash: str
    provenance: ResponseProvenance
    timings: dict[str, float]


class ReplyMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: tuple[()] = ()


class Choice(BaseModel):
    index: Literal[0] = 0
    message: ReplyMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """A finished answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice]
    usage: TokenUsage
    twin: TwinAnswer


class ChunkDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    index: Literal[0] = 0
    delta: ChunkDelta
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: tuple[ModelCard, ...]
