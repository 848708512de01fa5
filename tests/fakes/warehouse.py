"""The warehouse in memory: same contract as ``infrastructure.stores.mongo``, checked by the same conformance suite.

``calls`` counts round trips by name (``documents.find``, ``documents.write``, ``clean.stream`` ...): a call that hands
over n items counts ceil(n / 1,000) where it writes and ceil(n / 256) where it looks up ids, a stream counts one per
batch read. Writes that turn out to be empty count nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import ceil
from threading import RLock
from typing import TypeVar

import numpy as np

from llm_engineering.application.ports import DocumentCard, Generation, StoredVersion, UpsertCounts, Vectors
from llm_engineering.domain.analyses import Analysis
from llm_engineering.domain.documents import CleanDocument, DeadLetter, RawDocument, User
from llm_engineering.domain.drafts import StoredDraft
from llm_engineering.domain.errors import ForeignVoteError, InvalidInputError, StoreUnavailableError
from llm_engineering.domain.inference import Feedback, Interaction
from llm_engineering.domain.notices import Notice, StoredNotice
from llm_engineering.domain.reviews import ReviewCheck, StoredSummary
from llm_engineering.domain.voices import VoiceProfile, voice_id

WRITE_BATCH = 1_000
FIND_BATCH = 256
ROW_BATCH = 10_000

Item = TypeVar("Item")
Stored = TypeVar("Stored", RawDocument, CleanDocument, DeadLetter, User, StoredNotice)


class _Collection:
    """What the stores share: a lock, so that threads may write at once, and the counting of round trips."""

    def __init__(self, warehouse: "FakeWarehouse", name: str) -> None:
        self._warehouse = warehouse
        self._name = name
        self._lock = RLock()

    def _call(self, operation: str, items: int = 1, batch: int = WRITE_BATCH) -> None:
        if self._warehouse.down:
            raise StoreUnavailableError(
                "The fake warehouse is down. Start it with: poe local-infrastructure-up"
            )
        if items:
            self._warehouse.calls[f"{self._name}.{operation}"] += ceil(items / batch)

    def _batches(self, rows: Sequence[Item], batch_size: int) -> Iterator[Item]:
        if not rows:
            self._call("stream")
        for start in range(0, len(rows), batch_size):
            self._call("stream")
            yield from rows[start : start + batch_size]


def _matching(rows: Mapping[str, Stored], accepts: Callable[[Stored], bool] = lambda _: True) -> list[Stored]:
    return [rows[key] for key in sorted(rows) if accepts(rows[key])]


class FakeUserStore(_Collection):
    def __init__(self, warehouse: "FakeWarehouse") -> None:
        super().__init__(warehouse, "users")
        self._rows: dict[str, User] = {}

    def get_or_create(self, full_name: str) -> User:
        self._call("get_or_create")
        user = User(full_name=full_name)
        with self._lock:
            return self._rows.setdefault(user.id, user)

    def find(self, full_name: str) -> User | None:
        self._call("find")
        return self._rows.get(User(full_name=full_name).id)

    def all(self) -> Iterator[User]:
        return self._batches(_matching(self._rows), WRITE_BATCH)

    def delete(self, ids: Sequence[str]) -> int:
        self._call("delete", len(set(ids)))
        with self._lock:
            return sum(self._rows.pop(key, None) is not None for key in set(ids))


class FakeDocumentStore(_Collection):
    def __init__(self, warehouse: "FakeWarehouse") -> None:
        super().__init__(warehouse, "documents")
        self._rows: dict[str, RawDocument] = {}

    def upsert(self, documents: Sequence[RawDocument]) -> UpsertCounts:
        latest = {document.id: document for document in documents}
        self._call("find", len(latest), FIND_BATCH)
        created = updated = 0
        with self._lock:
            for key, document in latest.items():
                stored = self._rows.get(key)
                if stored is None:
                    created += 1
                elif stored.content_hash != document.content_hash:
                    updated += 1
                else:
                    # The content stands; what the server said about its freshness is the newer.
                    refreshed = {"etag": document.etag, "last_modified": document.last_modified}
                    document = RawDocument(**{**stored.model_dump(), **refreshed})
                self._rows[key] = document
        self._call("write", created + updated)
        return UpsertCounts(created, updated, len(latest) - created - updated)

    def stream(
        self, *, category: str | None = None, author: str | None = None, batch_size: int = 256
    ) -> Iterator[RawDocument]:
        author_id = None if author is None else User(full_name=author).id
        rows = _matching(
            self._rows,
            lambda d: category in (None, d.category) and author_id in (None, d.author_id),
        )
        return self._batches(rows, batch_size)

    def list_hashes(self) -> Iterator[tuple[str, str]]:
        return self._batches([(d.id, d.content_hash) for d in _matching(self._rows)], ROW_BATCH)

    def get(self, ids: Sequence[str]) -> list[RawDocument]:
        self._call("get", len(set(ids)), FIND_BATCH)
        return _matching({key: self._rows[key] for key in set(ids) if key in self._rows})

    def find_stored(self, origin: str) -> dict[str, StoredVersion]:
        self._call("known")
        return {
            d.link: StoredVersion(d.content_hash, d.etag, d.last_modified)
            for d in _matching(self._rows, lambda d: d.origin == origin)
        }

    def delete(self, ids: Sequence[str]) -> int:
        self._call("delete", len(set(ids)))
        with self._lock:
            return sum(self._rows.pop(key, None) is not None for key in set(ids))

    def count_documents(self) -> dict[tuple[str, str], int]:
        self._call("counts")
        return dict(Counter((d.category, d.author) for d in _matching(self._rows)))

    def count_sources(self) -> dict[tuple[str, str], int]:
        self._call("counts")
        return dict(sorted(Counter((d.origin, d.author) for d in _matching(self._rows)).items()))


class FakeCleanStore(_Collection):
    def __init__(self, warehouse: "FakeWarehouse") -> None:
        super().__init__(warehouse, "clean")
        self._rows: dict[str, CleanDocument] = {}

    def upsert(self, documents: Sequence[CleanDocument]) -> None:
        self._call("write", len({document.id for document in documents}))
        with self._lock:
            self._rows.update({document.id: document for document in documents})

    def source_hashes(self) -> Iterator[tuple[str, str]]:
        return self._batches([(d.id, d.source_hash) for d in _matching(self._rows)], ROW_BATCH)

    def list_versions(self) -> Iterator[tuple[str, str]]:
        return self._batches([(d.id, d.content_hash) for d in _matching(self._rows)], ROW_BATCH)

    def list_cards(self) -> Iterator[DocumentCard]:
        rows = [
            DocumentCard(
                d.id,
                d.category,
                d.title,
                d.link,
                d.platform,
                d.author,
                d.language,
                d.published_at,
                d.metadata,
            )
            for d in _matching(self._rows)
        ]
        return self._batches(rows, ROW_BATCH)

    def list_signatures(self) -> Iterator[tuple[str, bytes, str | None]]:
        rows = [(d.id, d.signature, d.duplicate_group) for d in _matching(self._rows)]
        return self._batches(rows, ROW_BATCH)

    def set_groups(self, groups: Mapping[str, str | None]) -> None:
        self._call("find", len(groups), FIND_BATCH)
        with self._lock:
            changed = [
                key for key in groups if key in self._rows and self._rows[key].duplicate_group != groups[key]
            ]
            for key in changed:
                # Built anew: model_copy would carry the old content hash along.
                self._rows[key] = CleanDocument(
                    **{**self._rows[key].model_dump(), "duplicate_group": groups[key]}
                )
        self._call("write", len(changed))

    def get(self, ids: Sequence[str]) -> list[CleanDocument]:
        self._call("get", len(set(ids)), FIND_BATCH)
        return _matching({key: self._rows[key] for key in set(ids) if key in self._rows})

    def stream(
        self, *, category: str | None = None, author: str | None = None, batch_size: int = 256
    ) -> Iterator[CleanDocument]:
        author_id = None if author is None else User(full_name=author).id
        rows = _matching(
            self._rows,
            lambda d: category in (None, d.category) and author_id in (None, d.author_id),
        )
        return self._batches(rows, batch_size)

    def delete(self, ids: Sequence[str]) -> int:
        self._call("delete", len(set(ids)))
        with self._lock:
            return sum(self._rows.pop(key, None) is not None for key in set(ids))


class FakeDeadLetterStore(_Collection):
    def __init__(self, warehouse: "FakeWarehouse") -> None:
        super().__init__(warehouse, "dead_letters")
        self._rows: dict[str, DeadLetter] = {}

    def put(self, letters: Sequence[DeadLetter]) -> None:
        self._call("write", len({letter.id for letter in letters}))
        with self._lock:
            self._rows.update({letter.id: letter for letter in letters})

    def resolve(self, stage: str, sources: Sequence[str]) -> int:
        wanted = set(sources)
        self._call("delete", len(wanted))
        with self._lock:
            keys = [key for key, row in self._rows.items() if row.stage == stage and row.source in wanted]
            for key in keys:
                del self._rows[key]
        return len(keys)

    def stream(self, stage: str | None = None) -> Iterator[DeadLetter]:
        return self._batches(_matching(self._rows, lambda row: stage in (None, row.stage)), WRITE_BATCH)

    def count(self) -> int:
        self._call("count")
        return len(self._rows)


class FakeEmbeddingCache(_Collection):
    def __init__(self, warehouse: "FakeWarehouse") -> None:
        super().__init__(warehouse, "embeddings")
        self._rows: dict[tuple[str, str], bytes] = {}

    def get_many(self, fingerprint: str, text_hashes: Sequence[str]) -> dict[str, Vectors]:
        wanted = set(text_hashes)
        self._call("get", len(wanted), FIND_BATCH)
        found = {key: self._rows[fingerprint, key] for key in wanted if (fingerprint, key) in self._rows}
        return {key: np.frombuffer(value, dtype="<f4") for key, value in found.items()}

    def put_many(self, fingerprint: str, vectors: Mapping[str, Vectors]) -> None:
        self._call("write", len(vectors))
        with self._lock:
            for key, vector in vectors.items():
                self._rows[fingerprint, key] = np.asarray(vector, dtype="<f4").tobytes()


class FakeFeedbackStore(_Collection):
    def __init__(self, warehouse: "FakeWarehouse") -> None:
        super().__init__(warehouse, "feedback")
        self._answers: dict[str, Interaction] = {}
        self._votes: dict[str, Feedback] = {}
        self._subjects: dict[tuple[str, str], Feedback] = {}

    def remember(self, interaction: Interaction) -> None:
        self._call("write")
        with self._lock:
            if interaction.trace_id not in self._votes:
                self._answers[interaction.trace_id] = interaction

    def find_interaction(self, trace_id: str) -> Interaction | None:
        self._call("find")
        answer = self._answers.get(trace_id)
        if answer is None or trace_id in self._votes:
            return answer
        return answer if answer.created_at > datetime.now(UTC) - timedelta(days=30) else None

    def vote(self, feedback: Feedback) -> None:
        self._call("write")
        with self._lock:
            if feedback.subject.kind != "answer":
                self._subjects[feedback.subject.id, feedback.voter] = feedback
                return
            if self.find_interaction(feedback.trace_id) is None:
                raise InvalidInputError(f"No answer with the trace id {feedback.trace_id!r} is kept.")
            held = self._votes.get(feedback.trace_id)
            if held is not None and held.voter != feedback.voter:
                raise ForeignVoteError("Somebody else has voted on this answer.")
            self._votes[feedback.trace_id] = feedback

    def read_corrections(self, task: str | None = None) -> Iterator[Feedback]:
        found = [one for one in self._subjects.values() if task in (None, one.task)]
        return self._batches(sorted(found, key=lambda one: one.created_at), WRITE_BATCH)

    def count_votes(self, task: str) -> dict[str, tuple[int, int]]:
        self._call("count")
        found = {}
        for key in sorted({one.subject.id for one in self._subjects.values() if one.task == task}):
            ratings = [one.rating for one in self._subjects.values() if one.subject.id == key]
            found[key] = (ratings.count("up"), ratings.count("down"))
        return found

    def read_votes(self, *, batch_size: int = 256) -> Iterator[tuple[Interaction, Feedback]]:
        ordered = sorted(self._votes.values(), key=lambda vote: (vote.created_at, vote.trace_id))
        return self._batches([(self._answers[vote.trace_id], vote) for vote in ordered], batch_size)

    def restore(self, voted: Sequence[tuple[Interaction, Feedback]]) -> None:
        self._call("write", len(voted))
        with self._lock:
            self._answers.update({answer.trace_id: answer for answer, _ in voted})
            self._votes.update({vote.trace_id: vote for _, vote in voted})


class FakeDraftStore(_Collection):
    def __init__(self, warehouse: "FakeWarehouse") -> None:
        super().__init__(warehouse, "drafts")
        self._rows: dict[str, StoredDraft] = {}

    def save(self, draft: StoredDraft) -> None:
        self._call("write")
        with self._lock:
            stored = self._rows.get(draft.id)
            if stored is None or not stored.edits:
                self._rows[draft.id] = draft

    def find(self, draft_id: str) -> StoredDraft | None:
        self._call("find")
        draft = self._rows.get(draft_id)
        return draft if draft is not None and _is_kept(draft) else None

    def read_page(self, count: int, *, before: tuple[datetime, str] | None = None) -> list[StoredDraft]:
        self._call("find")
        kept = [draft for draft in list(self._rows.values()) if _is_kept(draft)]
        ordered = sorted(kept, key=lambda draft: (draft.created_at, draft.id), reverse=True)
        return [draft for draft in ordered if before is None or (draft.created_at, draft.id) < before][:count]

    def replace(self, draft: StoredDraft, base_revision: int) -> bool:
        self._call("write")
        with self._lock:
            stored = self._rows.get(draft.id)
            if stored is None or stored.revision != base_revision:
                return False
            self._rows[draft.id] = draft
            return True

    def delete(self, draft_id: str) -> bool:
        self._call("delete")
        with self._lock:
            return self._rows.pop(draft_id, None) is not None

    def read_edited(self, *, batch_size: int = 256) -> Iterator[StoredDraft]:
        return self._batches([row for _, row in sorted(self._rows.items()) if row.edits], batch_size)

    def restore(self, drafts: Sequence[StoredDraft]) -> None:
        self._call("write", len(drafts))
        with self._lock:
            self._rows.update({draft.id: draft for draft in drafts})


def _is_kept(draft: StoredDraft) -> bool:
    return bool(draft.edits) or draft.created_at > datetime.now(UTC) - timedelta(days=30)


class FakeGenerationCache(_Collection):
    def __init__(self, warehouse: "FakeWarehouse") -> None:
        super().__init__(warehouse, "generations")
        self._rows: dict[str, Generation] = {}

    def get_many(self, keys: Sequence[str]) -> dict[str, Generation]:
        wanted = set(keys)
        self._call("get", len(wanted), FIND_BATCH)
        return {key: self._rows[key] for key in wanted if key in self._rows}

    def put_many(self, generations: Mapping[str, Generation]) -> None:
        self._call("write", len(generations))
        with self._lock:
            self._rows.update(generations)


class FakeVoiceStore(_Collection):
    def __init__(self, warehouse: "FakeWarehouse") -> None:
        super().__init__(warehouse, "voices")
        self._rows: dict[str, VoiceProfile] = {}

    def put(self, voices: Sequence[VoiceProfile]) -> None:
        self._call("write", len(voices))
        with self._lock:
            self._rows.update({voice.id: voice for voice in voices})

    def find(self, author: str) -> list[VoiceProfile]:
        self._call("stream")
        found = [voice for voice in self._rows.values() if voice.id == voice_id(author, voice.language)]
        return sorted(found, key=lambda voice: -voice.words)

    def list_profiles(self) -> Iterator[VoiceProfile]:
        return self._batches([self._rows[key] for key in sorted(self._rows)], WRITE_BATCH)

    def delete(self, ids: Sequence[str]) -> int:
        self._call("delete", len(set(ids)))
        with self._lock:
            return sum(self._rows.pop(key, None) is not None for key in set(ids))


class FakeAnalysisStore(_Collection):
    def __init__(self, warehouse: "FakeWarehouse") -> None:
        super().__init__(warehouse, "analyses")
        self._rows: dict[str, Analysis] = {}

    def upsert(self, analyses: Sequence[Analysis]) -> None:
        self._call("write", len({one.id for one in analyses}))
        with self._lock:
            self._rows.update({one.id: one for one in analyses})

    def list_versions(self, task: str) -> Iterator[tuple[str, str]]:
        return self._batches([(one.id, one.key) for one in self._of(task)], ROW_BATCH)

    def get(self, ids: Sequence[str]) -> list[Analysis]:
        self._call("get", len(set(ids)), FIND_BATCH)
        return [self._rows[key] for key in sorted(set(ids)) if key in self._rows]

    def stream(self, *, task: str | None = None, batch_size: int = 256) -> Iterator[Analysis]:
        return self._batches(self._of(task), batch_size)

    def count_by_task(self) -> dict[str, int]:
        self._call("count")
        return dict(sorted(Counter(one.task for one in self._rows.values()).items()))

    def delete(self, ids: Sequence[str]) -> int:
        self._call("delete", len(set(ids)))
        with self._lock:
            return sum(self._rows.pop(key, None) is not None for key in set(ids))

    def _of(self, task: str | None) -> list[Analysis]:
        return [self._rows[key] for key in sorted(self._rows) if task in (None, self._rows[key].task)]


class FakeNoticeStore(_Collection):
    def __init__(self, warehouse: "FakeWarehouse") -> None:
        super().__init__(warehouse, "notices")
        self._rows: dict[str, StoredNotice] = {}

    def put(self, notices: Sequence[Notice]) -> int:
        self._call("write", len(notices))
        with self._lock:
            fresh = {
                n.id: StoredNotice(id=n.id, notice=n) for n in reversed(notices) if n.id not in self._rows
            }
            self._rows.update(fresh)
        return len(fresh)

    def read_open(self) -> Iterator[StoredNotice]:
        return self._batches([row for row in _matching(self._rows) if not row.done], WRITE_BATCH)

    def get(self, ids: Sequence[str]) -> list[StoredNotice]:
        self._call("find")
        return [self._rows[key] for key in sorted(set(ids)) if key in self._rows]

    def replace(self, notice: StoredNotice) -> None:
        self._call("write", 1)
        with self._lock:
            self._rows[notice.id] = notice

    def stream(self) -> Iterator[StoredNotice]:
        return self._batches(list(_matching(self._rows)), WRITE_BATCH)

    def delete(self, ids: Sequence[str]) -> int:
        self._call("delete", len(set(ids)))
        with self._lock:
            return sum(self._rows.pop(key, None) is not None for key in set(ids))


class FakeSummaryStore(_Collection):
    def __init__(self, warehouse: "FakeWarehouse") -> None:
        super().__init__(warehouse, "summaries")
        self._rows: dict[str, StoredSummary] = {}
        self._checks: dict[datetime, ReviewCheck] = {}

    def put_check(self, check: ReviewCheck) -> None:
        self._call("write")
        self._checks[check.at] = check

    def list_checks(self, most: int) -> list[ReviewCheck]:
        self._call("find")
        return [self._checks[at] for at in sorted(self._checks, reverse=True)][:most]

    def put_many(self, summaries: Sequence[StoredSummary]) -> None:
        self._call("write", len(summaries))
        with self._lock:
            self._rows.update({one.id: one for one in summaries})

    def get(self, ids: Sequence[str]) -> list[StoredSummary]:
        self._call("get", len(set(ids)), FIND_BATCH)
        return [self._rows[key] for key in sorted(set(ids)) if key in self._rows]

    def list_of_product(self, product: str) -> list[StoredSummary]:
        self._call("find")
        return [self._rows[key] for key in sorted(self._rows) if self._rows[key].product == product]

    def stream(self, *, waiting: bool = False, batch_size: int = 256) -> Iterator[StoredSummary]:
        rows = [self._rows[key] for key in sorted(self._rows)]
        return self._batches([row for row in rows if not waiting or row.waiting is not None], batch_size)

    def delete(self, ids: Sequence[str]) -> int:
        self._call("delete", len(set(ids)))
        with self._lock:
            return sum(self._rows.pop(key, None) is not None for key in set(ids))


class FakeWarehouse:
    """All stores in memory. Set ``down`` to make every call raise StoreUnavailableError."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.down = False
        self.users = FakeUserStore(self)
        self.documents = FakeDocumentStore(self)
        self.clean = FakeCleanStore(self)
        self.dead_letters = FakeDeadLetterStore(self)
        self.embeddings = FakeEmbeddingCache(self)
        self.feedback = FakeFeedbackStore(self)
        self.drafts = FakeDraftStore(self)
        self.generations = FakeGenerationCache(self)
        self.voices = FakeVoiceStore(self)
        self.analyses = FakeAnalysisStore(self)
        self.notices = FakeNoticeStore(self)
        self.summaries = FakeSummaryStore(self)

    @property
    def display_uri(self) -> str:
        return "memory://fake"

    def ping(self) -> None:
        if self.down:
            raise StoreUnavailableError(
                "The fake warehouse is down. Start it with: poe local-infrastructure-up"
            )

    def close(self) -> None:
        """Nothing is held."""
