"""What is asked of the inference pipeline, and what comes of it, piece by piece. Costs little to import."""

from dataclasses import dataclass

from llm_engineering.application.ports.llm import Message
from llm_engineering.domain.inference import Intent, RagResult, ResponseProvenance
from llm_engineering.domain.retrieval import Citation, Query, Support

FORMATS = ("thread", "tweet", "outline", "newsletter", "email", "title", "article", "post")
"""Names of the forms that a text can have."""
LEAST_WORDS = 20


@dataclass(frozen=True, slots=True)
class BriefOptions:
    """What of a brief the caller states; it wins over what the request's words say."""

    author: str | None = None
    """Whose voice it is."""
    form: str | None = None
    """One of :data:`FORMATS`."""
    words: int | None = None
    rewrite: bool = False
    """The request is about the last reply of the history, however long it is."""


NO_OPTIONS = BriefOptions()


@dataclass(frozen=True, slots=True)
class RagRequest:
    """A question with the conversation it stands in."""

    query: Query
    history: tuple[Message, ...] = ()
    """Earlier turns of user and assistant, oldest first."""
    instructions: str = ""
    """What the calling application asks for (its system message): heard, but below the service's own rules."""
    max_tokens: int | None = None
    """None: as configured; never more than that."""
    temperature: float | None = None
    seed: int | None = None
    intent: Intent | None = None
    """What is asked for; None: it is read from the question."""
    brief: BriefOptions = NO_OPTIONS
    """Of a text that is to be written: what need not be read from the question."""
    model: str | None = None
    """Name of the model that is to answer; None: the first."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What the answer will be made from; comes first."""

    trace_id: str
    citations: tuple[Citation, ...]
    provenance: ResponseProvenance
    draft_id: str | None = None
    """Under which a draft will be kept, as far as it comes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text to show now. All pieces of a request together are ``Answer.text``."""

    text: str


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on a sentence whose pieces have been sent."""

    support: Support


@dataclass(frozen=True, slots=True)
class Finished:
    """Comes last, once."""

    result: RagResult


Event = Sources | Piece | Checked | Finished
