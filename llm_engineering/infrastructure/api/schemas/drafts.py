"""What the routes of drafts take and give."""

from datetime import datetime
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema

from llm_engineering.application.inference.events import FORMATS, LEAST_WORDS, BriefOptions
from llm_engineering.application.inference.pipeline import RagRequest
from llm_engineering.application.inference.retriever import RetrievalConfig
from llm_engineering.application.ports import Message
from llm_engineering.domain.drafts import DraftBrief, DraftEdit, StoredDraft
from llm_engineering.domain.inference import Intent, ResponseProvenance
from llm_engineering.domain.retrieval import MAX_QUESTION_CHARACTERS, Answer
from llm_engineering.infrastructure.api.schemas.rag import (
    MAX_TURN_CHARACTERS,
    Conversation,
    Filter,
    Request,
    SearchOptions,
    Value,
    drop_nulls,
)

MAX_LENGTH: Final = 10_000
MAX_DRAFT_CHARACTERS: Final = 50_000
MAX_REVISION: Final = 1_000_000
MAX_PAGE: Final = 100
_OPENING: Final = 120
"""Characters of a draft that a list shows."""


def _known_format(value: str) -> str:
    if value not in FORMATS:
        raise ValueError(f"there is no such format; there are: {', '.join(FORMATS)}")
    return value


class WriteBody(Conversation):
    """What is to be written: a subject or an order in words, and what of it is stated apart, which wins over the words."""

    request: str = Field(
        min_length=1,
        max_length=2 * MAX_QUESTION_CHARACTERS,
        pattern=r"\S",
        description="The subject, or the order in words: 'Draft a post about chunking'.",
    )
    author: Value | None = Field(
        default=None, description="Whose voice it is. The filter says whose texts it is made from."
    )
    format: (
        Annotated[
            str, AfterValidator(_known_format), WithJsonSchema({"type": "string", "enum": list(FORMATS)})
        ]
        | None
    ) = None
    length: int | None = Field(
        default=None,
        ge=LEAST_WORDS,
        le=MAX_LENGTH,
        description="Words. Drafts that would be too long for a model are shorter.",
    )
    filter: Filter | None = None
    text: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TURN_CHARACTERS,
        pattern=r"\S",
        description="A text to be rewritten as the request says, in place of a new one.",
    )

    def to_request(self, defaults: RetrievalConfig) -> RagRequest:
        """Return the request as the pipeline takes it.

        Raises:
            InvalidInputError: the request is empty or too long.
        """
        given = (Message("assistant", drop_nulls(self.text)),) if self.text is not None else ()
        return RagRequest(
            query=SearchOptions(filter=self.filter).to_query(self.request, defaults),
            history=(*self.list_turns(), *given),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
            model=self.model,
            intent=Intent.WRITE,
            brief=BriefOptions(author=self.author, form=self.format, words=self.length, rewrite=bool(given)),
        )


class DraftEditBody(Request):
    """A person's version of a draft."""

    text: str = Field(min_length=1, max_length=MAX_DRAFT_CHARACTERS, pattern=r"\S")
    base_revision: int = Field(
        ge=0, le=MAX_REVISION, description="The version that was edited: 0 is the draft itself."
    )

    def clean_text(self) -> str:
        """Return the text with line ends as an editor writes them."""
        return drop_nulls(self.text).replace("\r\n", "\n")


# --- responses --------------------------------------------------------------------------------------------------------


class DraftDetail(BaseModel):
    """A draft with its sources, the verdicts on its sentences, and the versions that people made of it."""

    id: str
    brief: DraftBrief
    text: str = Field(description="The newest version.")
    revision: int = Field(description="Its number; 0 is the draft itself.")
    answer: Answer = Field(description="What the model wrote; its `question` is the request.")
    provenance: ResponseProvenance
    unfinished: bool = Field(description="It broke off: the model failed, or the client left.")
    created_at: datetime
    edits: tuple[DraftEdit, ...] = Field(description="Oldest first; of many, the newest.")

    @classmethod
    def describe(cls, draft: StoredDraft) -> "DraftDetail":
        """Return a draft as callers see it."""
        shared = {name: getattr(draft, name) for name in cls.model_fields}
        return cls(**shared)


class DraftSummary(BaseModel):
    """A draft in a list."""

    id: str
    request: str
    brief: DraftBrief
    opening: str = Field(description="How the newest version begins.")
    revision: int
    unfinished: bool
    created_at: datetime
    edited_at: datetime | None

    @classmethod
    def describe(cls, draft: StoredDraft) -> "DraftSummary":
        """Return a draft as a list shows it."""
        opening = " ".join(draft.text[: 2 * _OPENING].split())
        return cls(
            id=draft.id,
            request=draft.answer.question,
            brief=draft.brief,
            opening=opening if len(opening) <= _OPENING else f"{opening[:_OPENING].rstrip()}…",
            revision=draft.revision,
            unfinished=draft.unfinished,
            created_at=draft.created_at,
            edited_at=draft.edits[-1].created_at if draft.edits else None,
        )


class DraftPage(BaseModel):
    """Drafts, newest first."""

    drafts: tuple[DraftSummary, ...]
    next: str | None = Field(
        description="What `before` must say for the following page; null: this is the last."
    )


class DraftDeleted(BaseModel):
    """The draft that is gone, with all of its versions."""

    id: str
