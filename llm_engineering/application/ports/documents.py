"""The data warehouse: who has written, what was collected, what was cleaned, what failed, what people said."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from llm_engineering.application.ports.sources import StoredVersion
from llm_engineering.domain.documents import (
    CleanDocument,
    DeadLetter,
    RawDocument,
    User,
)
from llm_engineering.domain.drafts import StoredDraft
from llm_engineering.domain.facets import MetadataValue
from llm_engineering.domain.inference import Feedback, Interaction
from llm_engineering.domain.voices import VoiceProfile


@dataclass(frozen=True, slots=True)
class UpsertCounts:
    """What a bulk write did, in documents."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0

    def __add__(self, other: "UpsertCounts") -> "UpsertCounts":
        return UpsertCounts(
            self.created + other.created, self.updated + other.updated, self.unchanged + other.unchanged
        )


@dataclass(frozen=True, slots=True)
class DocumentCard:
    """What a catalogue says of a cleaned document: all but its text."""

    id: str
    category: str
    title: str
    link: str
    platform: str
    author: str
    language: str
    published_at: datetime | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)

    @property
    def document_id(self) -> str:
        """As chunks call it, so that one filter fits both."""
        return self.id


class UserStore(Protocol):
    def get_or_create(self, full_name: str) -> User:
        """Return the user of that name (spacing and case do not matter). Safe when many do it at once."""
        ...

    def find(self, full_name: str) -> User | None:
        """Never creates."""
        ...

    def all(self) -> Iterator[User]: ...

    def delete(self, ids: Sequence[str]) -> int: ...


class DocumentStore(Protocol):
    """Raw documents as collected. Reads stream in batches; writes are bulk upserts by id."""

    def upsert(self, documents: Sequence[RawDocument]) -> UpsertCounts:
        """Write documents; equal content hashes are left untouched and counted as unchanged. One round trip to learn the
        stored hashes and one to write."""
        ...

    def stream(
        self, *, category: str | None = None, author: str | None = None, batch_size: int = 256
    ) -> Iterator[RawDocument]:
        """Yield all matching documents, ordered by id, never more than a batch in memory."""
        ...

    def list_hashes(self) -> Iterator[tuple[str, str]]:
        """Yield (document id, content hash) of every document, ordered by id."""
        ...

    def get(self, ids: Sequence[str]) -> list[RawDocument]:
        """Return the documents that exist among ``ids``, in one round trip, ordered by id."""
        ...

    def find_stored(self, origin: str) -> dict[str, StoredVersion]:
        """What is stored from an origin, by document link."""
        ...

    def delete(self, ids: Sequence[str]) -> int: ...

    def count_documents(self) -> dict[tuple[str, str], int]:
        """Return number of documents by (category, author)."""
        ...

    def count_sources(self) -> dict[tuple[str, str], int]:
        """Return number of documents by (origin, author)."""
        ...


class CleanStore(Protocol):
    """Cleaned documents: what features and training data are made from."""

    def upsert(self, documents: Sequence[CleanDocument]) -> None: ...

    def source_hashes(self) -> Iterator[tuple[str, str]]:
        """Yield (document id, source hash), ordered by id."""
        ...

    def list_versions(self) -> Iterator[tuple[str, str]]:
        """Yield (document id, content hash), ordered by id."""
        ...

    def list_cards(self) -> Iterator[DocumentCard]:
        """Yield what a catalogue says of each document, ordered by id, without reading its text."""
        ...

    def list_signatures(self) -> Iterator[tuple[str, bytes, str | None]]:
        """Yield (document id, MinHash signature, duplicate group), ordered by id."""
        ...

    def set_groups(self, groups: Mapping[str, str | None]) -> None:
        """Set the duplicate group of documents (and with it their content hash), in bulk."""
        ...

    def get(self, ids: Sequence[str]) -> list[CleanDocument]:
        """Return the documents that exist among ``ids``, in one round trip, ordered by id."""
        ...

    def stream(
        self, *, category: str | None = None, author: str | None = None, batch_size: int = 256
    ) -> Iterator[CleanDocument]: ...

    def delete(self, ids: Sequence[str]) -> int: ...


class DeadLetterStore(Protocol):
    def put(self, letters: Sequence[DeadLetter]) -> None: ...

    def resolve(self, stage: str, sources: Sequence[str]) -> int:
        """Forget the letters of sources that have since succeeded. Returns how many there were."""
        ...

    def stream(self, stage: str | None = None) -> Iterator[DeadLetter]: ...

    def count(self) -> int: ...


class FeedbackStore(Protocol):
    """Answers that were given, and what people said of them."""

    def remember(self, interaction: Interaction) -> None:
        """Keep an answer, by trace id, so that a vote on it can become training data. Kept for a limited time."""
        ...

    def find_interaction(self, trace_id: str) -> Interaction | None: ...

    def vote(self, feedback: Feedback) -> None:
        """Keep a vote; a second one on the same subject, by the same voter, replaces the first.

        Raises:
            InvalidInputError: it is about an answer, and none with that trace id is remembered.
            ForeignVoteError: it is about an answer, and another voter has voted on it.
        """
        ...

    def read_corrections(self, task: str | None = None) -> Iterator[Feedback]:
        """Yield what was said of analyses and summaries, of a task or of all, oldest first."""
        ...

    def count_votes(self, task: str) -> dict[str, tuple[int, int]]:
        """Return the votes of a task that are no answers': (up, down) by the subject's id, in one round trip."""
        ...

    def read_votes(self, *, batch_size: int = 256) -> Iterator[tuple[Interaction, Feedback]]:
        """Yield every vote with its answer, oldest first. An answer that was voted on is kept for good."""
        ...

    def restore(self, voted: Sequence[tuple[Interaction, Feedback]]) -> None:
        """Write votes with their answers, as ``votes`` gave them; what is stored under their trace ids is replaced."""
        ...


class VoiceStore(Protocol):
    """How authors write, by author and language."""

    def put(self, voices: Sequence[VoiceProfile]) -> None:
        """Write profiles; what is stored under their ids is replaced."""
        ...

    def find(self, author: str) -> list[VoiceProfile]:
        """Return an author's profiles, one for each language, those with most words first. Spacing and case of the name do
        not matter."""
        ...

    def list_profiles(self) -> Iterator[VoiceProfile]:
        """Yield every profile, ordered by id."""
        ...

    def delete(self, ids: Sequence[str]) -> int: ...


class DraftStore(Protocol):
    """Drafts, with the versions that people made of them. One that nobody edited is kept for a limited time."""

    def save(self, draft: StoredDraft) -> None:
        """Keep a new draft, by its id. One that was edited under the same id stays as it is."""
        ...

    def find(self, draft_id: str) -> StoredDraft | None: ...

    def read_page(self, count: int, *, before: tuple[datetime, str] | None = None) -> list[StoredDraft]:
        """Return drafts, newest first; ``before``: only those that come behind the one of this time and id."""
        ...

    def replace(self, draft: StoredDraft, base_revision: int) -> bool:
        """Write an edited draft, and keep it for good; False: what is stored is not, or no longer, of that revision."""
        ...

    def delete(self, draft_id: str) -> bool:
        """Forget a draft with its versions; False: there is none."""
        ...

    def read_edited(self, *, batch_size: int = 256) -> Iterator[StoredDraft]:
        """Yield every draft that was edited, ordered by id."""
        ...

    def restore(self, drafts: Sequence[StoredDraft]) -> None:
        """Write edited drafts, as :meth:`read_edited` gave them; what is stored under their ids is replaced."""
        ...
