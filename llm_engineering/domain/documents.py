"""Users, documents and chunks. Identity is derived from the source, so every write can be repeated safely."""

import hashlib
import json
import math
import uuid
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from llm_engineering.domain.categories import category_spec
from llm_engineering.domain.facets import MetadataValue

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:llm-twin")
"""All derived ids live in this UUID namespace; changing it would orphan every stored document."""


def derive_id(*parts: str) -> str:
    """Return a UUID (version 5) that depends on the parts and on nothing else."""
    return str(uuid.uuid5(NAMESPACE, json.dumps(parts, ensure_ascii=False)))


def text_hash(text: str) -> str:
    """Return SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _as_utc(value: datetime) -> datetime:
    # Stores keep milliseconds and hand back UTC; holding the same here makes round trips exact.
    value = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


UtcDatetime = Annotated[datetime, AfterValidator(_as_utc)]
"""A point in time, in UTC, at the millisecond precision that every store keeps. A naive value is taken as UTC."""


class Model(BaseModel):
    """Base of the domain's values: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class User(Model):
    """Somebody who has written something."""

    full_name: str = Field(min_length=1)

    @field_validator("full_name")
    @classmethod
    def _fold_space(cls, value: str) -> str:
        folded = " ".join(value.split())
        if not folded:
            raise ValueError("a user's full name must not be blank")
        return folded

    @cached_property
    def id(self) -> str:
        """Derived from the name, ignoring case, so that two writers cannot create the same person twice."""
        return derive_id("user", self.full_name.casefold())


class RawDocument(Model):
    """A document as collected: its text as Markdown, or as source code, with where it came from."""

    category: str
    title: str = ""
    text: str = Field(min_length=1)
    link: str = Field(min_length=1)
    """Where a reader can open it. The document's identity: the canonical URL, or ``URL#path`` of a repository's file."""
    origin: str = Field(min_length=1)
    """The link the user gave, through which this document was found."""
    platform: str
    """Where it was published: ``medium``, ``substack``, ``linkedin``, ``github``, a host name, a table's name."""
    author: str = ""
    """Full name of its author; empty for a record that is nobody's writing, or whose writer is not to be kept."""
    language: str = "und"
    """ISO 639-1 code of a text (``und`` where unknown), or the programming language of a source file."""
    published_at: UtcDatetime | None = None
    metadata: dict[str, MetadataValue] = Field(default_factory=dict)
    etag: str | None = None
    last_modified: str | None = None
    collected_at: UtcDatetime | None = None
    """When this content was first read; None: before that was kept."""

    @field_validator("category")
    @classmethod
    def _known_category(cls, value: str) -> str:
        return category_spec(value).name

    @cached_property
    def id(self) -> str:
        return derive_id("document", self.link)

    @cached_property
    def author_id(self) -> str:
        return User(full_name=self.author).id if self.author.strip() else ""

    @cached_property
    def content_hash(self) -> str:
        """Over everything a reader would call the content; validators such as ETag do not count."""
        content = self.model_dump(mode="json", exclude={"etag", "last_modified", "origin", "collected_at"})
        return text_hash(json.dumps(content, sort_keys=True, ensure_ascii=False))


class CleanDocument(Model):
    """A cleaned document, with its near-duplicate signature and group."""

    id: str
    category: str
    title: str
    text: str
    link: str
    platform: str
    author: str
    author_id: str
    language: str
    published_at: UtcDatetime | None = None
    metadata: dict[str, MetadataValue] = Field(default_factory=dict)
    source_hash: str
    """``content_hash`` of the raw document, joined with the cleaning version: says whether cleaning must run again."""
    signature: bytes = b""
    """MinHash signature: little-endian uint32 values. Empty for a text too short to compare."""
    duplicate_group: str | None = None
    """Id of the first document (by id) of a group of near-duplicates; None for a document that stands alone."""

    @cached_property
    def content_hash(self) -> str:
        """Over everything that reaches the index, so a change of any of it makes the document's chunks stale."""
        content = self.model_dump(mode="json", exclude={"source_hash", "signature"})
        return text_hash(json.dumps(content, sort_keys=True, ensure_ascii=False))


class Span(Model):
    """A half-open range of characters, ``[start, end)``, of a clean document's text."""

    start: int = Field(ge=0)
    end: int = Field(ge=0)


class Chunk(Model):
    """A verbatim slice of a clean document's text that fits the embedding model.

    ``text == document.text[span.start:span.end]`` always holds, so that neighbours can be stitched together again into
    the parent passage without any text being stored twice.
    """

    id: str
    document_id: str
    document_version: str
    """Changes with the content, the chunking and the embedder: what is stored under another version is stale."""
    position: int = Field(ge=0)
    span: Span
    text: str
    tokens: int
    """Tokens of ``embedding_text`` by the embedder's own tokenizer, special tokens included."""
    headings: tuple[str, ...] = ()
    """Headings above the chunk, outermost first."""
    parent: int = Field(default=0, ge=0)
    """Number of the wider passage within the document (small-to-big); chunks of one passage share it."""
    category: str
    title: str
    link: str
    platform: str
    author: str
    author_id: str
    language: str
    published_at: UtcDatetime | None = None
    duplicate_group: str | None = None
    metadata: dict[str, MetadataValue] = Field(default_factory=dict)

    @field_validator("metadata")
    @classmethod
    def _check_metadata(cls, metadata: dict[str, MetadataValue]) -> dict[str, MetadataValue]:
        # JSON has no number for them, so an index could not give the chunk back.
        for name, value in metadata.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"metadata '{name}' is {value!r}; expected a finite number. Leave it out where unknown."
                )
        return metadata

    @staticmethod
    def derive_id(document_id: str, position: int, text: str) -> str:
        """Derive a chunk's id: equal text in two documents, or twice in one, still makes two chunks."""
        return derive_id("chunk", document_id, str(position), text_hash(text))

    @property
    def parent_id(self) -> str:
        return f"{self.document_id}:{self.parent}"

    @property
    def embedding_text(self) -> str:
        """What is embedded and indexed for words: the chunk under its title and headings."""
        return embedding_text(self.title, self.headings, self.text)

    @property
    def title_text(self) -> str:
        """The trail of title and headings alone; empty where there are none."""
        return title_text(self.title, self.headings)


def embedding_text(title: str, headings: tuple[str, ...], text: str) -> str:
    """Return a chunk's text under the trail of its title and headings, which tells a lone passage what it is about."""
    trail = title_text(title, headings)
    return f"{trail}\n{text}" if trail else text


def title_text(title: str, headings: tuple[str, ...]) -> str:
    """Return the trail of a title and the headings below it, outermost first."""
    trail = [part for part in (title, *headings) if part]
    # An article's first heading usually repeats its title.
    return " > ".join(part for i, part in enumerate(trail) if i == 0 or part != trail[i - 1])


class EmbeddedChunk(Model):
    """A chunk with its embedding: ``dimension`` floats, of unit length."""

    chunk: Chunk
    vector: tuple[float, ...]
    title_vector: tuple[float, ...] | None = None
    """Embedding of the chunk's ``title_text``, for an index that holds titles; None where there is no title."""


class EmbedderFingerprint(Model):
    """Identifies vectors that may be compared with each other."""

    model: str
    weights: str
    """SHA-256 of the weights file, or the model's version as its service names it."""
    dimension: int = Field(gt=0)
    pooling: str
    max_tokens: int = Field(gt=0)

    @property
    def digest(self) -> str:
        return text_hash(self.model_dump_json())[:16]


class DeadLetter(Model):
    """Something that failed, kept with its reason so that it can be looked at and tried again."""

    stage: str
    """Where it failed: ``collect``, ``clean``, ``chunk``, ``embed`` ..."""
    source: str
    """What failed: a link, ``file:line``, a document id."""
    reason: str
    payload: str = ""
    """The failed record itself, where it is small enough to keep (at most 10,000 characters)."""
    link: str = ""
    """The link that was being collected, with its author and options as JSON, to collect it again; empty in other stages."""
    failed_at: UtcDatetime

    @cached_property
    def id(self) -> str:
        """One letter per stage and source: a repeated failure replaces the earlier one."""
        return derive_id("dead-letter", self.stage, self.source)
