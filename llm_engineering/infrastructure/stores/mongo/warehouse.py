"""The warehouse: its stores on one connection."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_engineering.application.failures import group_batches
from llm_engineering.application.ports import DocumentCard, StoredVersion, UpsertCounts, Vectors
from llm_engineering.domain.documents import CleanDocument, DeadLetter, RawDocument, User
from llm_engineering.domain.errors import StoreError
from llm_engineering.domain.voices import VoiceProfile, voice_id
from llm_engineering.infrastructure.stores.mongo.access import MongoKeyStore, MongoTokenBuckets
from llm_engineering.infrastructure.stores.mongo.analyses import MongoAnalysisStore
from llm_engineering.infrastructure.stores.mongo.collections import (
    ROW_BATCH,
    WRITE_BATCH,
    MongoCollection,
)
from llm_engineering.infrastructure.stores.mongo.connection import MongoConnection, Record
from llm_engineering.infrastructure.stores.mongo.drafts import MongoDraftStore
from llm_engineering.infrastructure.stores.mongo.feedback import MongoFeedbackStore
from llm_engineering.infrastructure.stores.mongo.generations import MongoGenerationCache
from llm_engineering.infrastructure.stores.mongo.notices import MongoNoticeStore
from llm_engineering.infrastructure.stores.mongo.records import encode_records, from_record, refuse, to_record
from llm_engineering.infrastructure.stores.mongo.reviews import MongoSummaryStore

if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument
    from pymongo import IndexModel, UpdateOne

_REGROUP_ROUNDS = 5


class MongoUserStore(MongoCollection):
    """People, by the id derived from their folded name."""

    name = "users"
    what = "users"

    def get_or_create(self, full_name: str) -> User:
        from pymongo.errors import DuplicateKeyError

        # Not one find-and-modify with upsert: of two at once, the local server lets both believe that they inserted.
        found = self.find(full_name)
        if found is not None:
            return found
        user = User(full_name=full_name)
        with self._connection.translate_errors("saving a user"):
            try:
                self._collection().insert_one(to_record(user, user.id))
            except DuplicateKeyError:
                return (
                    self.find(full_name) or user
                )  # another writer was first: theirs is the spelling that counts
        return user

    def find(self, full_name: str) -> User | None:
        records = list(self._get([User(full_name=full_name).id]))
        return from_record(User, records[0]) if records else None

    def all(self) -> Iterator[User]:
        return (from_record(User, record) for record in self._stream({}, None, WRITE_BATCH))

    def delete(self, ids: Sequence[str]) -> int:
        return self._delete(ids)


class MongoDocumentStore(MongoCollection):
    """Raw documents, with their content hash and their author's id beside them."""

    name = "documents"
    what = "documents"

    def list_indexes(self) -> "list[IndexModel]":
        from pymongo import IndexModel

        return [
            IndexModel("link", unique=True),
            IndexModel("origin"),
            IndexModel([("category", 1), ("_id", 1)]),
            IndexModel([("author_id", 1), ("_id", 1)]),
        ]

    def upsert(self, documents: Sequence[RawDocument]) -> UpsertCounts:
        """Write documents; of several with one id in a call, the last counts.

        Where the content stands, only a changed ETag or Last-Modified is written (the document still counts as
        unchanged): keeping the old ones would make every later conditional request fail.

        Raises:
            StoreError: a document is too large for MongoDB, or a number in it; named, and all others were written.
        """
        from pymongo import ReplaceOne

        latest = {document.id: document for document in documents}
        counts, complaints = UpsertCounts(), list[str]()
        for batch in group_batches(list(latest.values()), WRITE_BATCH):
            stored = {
                record["_id"]: record
                for record in self._get([d.id for d in batch], ("content_hash", "etag", "last_modified"))
            }
            same = [d for d in batch if d.id in stored and stored[d.id]["content_hash"] == d.content_hash]
            unchanged = {document.id for document in same}
            records, refused = _records([d for d in batch if d.id not in unchanged])
            replacements: list[ReplaceOne[Any]] = [
                ReplaceOne({"_id": key}, record, upsert=True) for key, record in records if key in stored
            ]
            refreshments = [_refreshment(d) for d in same if not _as_fresh(d, stored[d.id])]
            new = [(key, record) for key, record in records if key not in stored]
            created, _ = self._write([*replacements, *refreshments], new)
            counts += UpsertCounts(created, len(records) - created, len(unchanged))
            complaints += refused
        refuse(self.what, complaints)
        return counts

    def stream(
        self, *, category: str | None = None, author: str | None = None, batch_size: int = 256
    ) -> Iterator[RawDocument]:
        records = self._stream(_matching(category, author), None, batch_size)
        return (from_record(RawDocument, record) for record in records)

    def list_hashes(self) -> Iterator[tuple[str, str]]:
        return ((r["_id"], r["content_hash"]) for r in self._stream({}, ("content_hash",), ROW_BATCH))

    def get(self, ids: Sequence[str]) -> list[RawDocument]:
        return [from_record(RawDocument, record) for record in self._get(ids)]

    def find_stored(self, origin: str) -> dict[str, StoredVersion]:
        fields = ("link", "content_hash", "etag", "last_modified")
        records = self._stream({"origin": origin}, fields, ROW_BATCH)
        return {r["link"]: StoredVersion(r["content_hash"], r["etag"], r["last_modified"]) for r in records}

    def delete(self, ids: Sequence[str]) -> int:
        return self._delete(ids)

    def count_documents(self) -> dict[tuple[str, str], int]:
        return self._count_by("category", "author")

    def count_sources(self) -> dict[tuple[str, str], int]:
        return self._count_by("origin", "author")

    def _count_by(self, first: str, second: str) -> dict[tuple[str, str], int]:
        pipeline = [
            {"$group": {"_id": {"first": f"${first}", "second": f"${second}"}, "documents": {"$sum": 1}}}
        ]
        with self._connection.translate_errors("counting documents"):
            rows = list(self._collection().aggregate(pipeline))
        return dict(sorted(((r["_id"]["first"], r["_id"]["second"]), r["documents"]) for r in rows))


class MongoCleanStore(MongoCollection):
    """Cleaned documents, with their content hash beside them."""

    name = "clean_documents"
    what = "clean documents"

    def list_indexes(self) -> "list[IndexModel]":
        from pymongo import IndexModel

        return [IndexModel([("category", 1), ("_id", 1)]), IndexModel([("author_id", 1), ("_id", 1)])]

    def upsert(self, documents: Sequence[CleanDocument]) -> None:
        """Write documents; of several with one id in a call, the last counts.

        Raises:
            StoreError: a document is too large for MongoDB; named, and all others were written.
        """
        latest = {document.id: document for document in documents}
        self._replace([(d.link, to_record(d, d.id, content_hash=d.content_hash)) for d in latest.values()])

    def source_hashes(self) -> Iterator[tuple[str, str]]:
        return ((r["_id"], r["source_hash"]) for r in self._stream({}, ("source_hash",), ROW_BATCH))

    def list_versions(self) -> Iterator[tuple[str, str]]:
        return ((r["_id"], r["content_hash"]) for r in self._stream({}, ("content_hash",), ROW_BATCH))

    def list_cards(self) -> Iterator[DocumentCard]:
        fields = ("category", "title", "link", "platform", "author", "language", "published_at", "metadata")
        records = self._stream({}, fields, ROW_BATCH)
        return (DocumentCard(id=r["_id"], **{name: r[name] for name in fields}) for r in records)

    def list_signatures(self) -> Iterator[tuple[str, bytes, str | None]]:
        records = self._stream({}, ("signature", "duplicate_group"), ROW_BATCH)
        return ((r["_id"], r["signature"], r["duplicate_group"]) for r in records)

    def set_groups(self, groups: Mapping[str, str | None]) -> None:
        """Set duplicate groups and the content hashes that follow from them; unknown ids are left aside.

        Raises:
            StoreError: other writers kept changing the same documents.
        """
        for batch in group_batches(list(groups), WRITE_BATCH):
            pending = batch
            for _ in range(_REGROUP_ROUNDS):
                operations = [self._regrouping(r, groups[r["_id"]]) for r in self._get(pending)]
                changes = [operation for operation in operations if operation is not None]
                _, matched = self._write(changes)
                if matched == len(changes):
                    break
                # A document changed between our read and our write: read again what is not yet as wanted.
            else:
                raise StoreError(
                    "The duplicate groups could not be set: another run is writing the same documents. Run again."
                )

    @staticmethod
    def _regrouping(record: Record, group: str | None) -> "UpdateOne | None":
        from pymongo import UpdateOne

        if record["duplicate_group"] == group:
            return None
        # Made from the record, not by model_copy, which would carry the old cached hash along.
        regrouped = from_record(CleanDocument, {**record, "duplicate_group": group})
        return UpdateOne(
            {"_id": record["_id"], "content_hash": record["content_hash"]},
            {"$set": {"duplicate_group": group, "content_hash": regrouped.content_hash}},
        )

    def get(self, ids: Sequence[str]) -> list[CleanDocument]:
        return [from_record(CleanDocument, record) for record in self._get(ids)]

    def stream(
        self, *, category: str | None = None, author: str | None = None, batch_size: int = 256
    ) -> Iterator[CleanDocument]:
        records = self._stream(_matching(category, author), None, batch_size)
        return (from_record(CleanDocument, record) for record in records)

    def delete(self, ids: Sequence[str]) -> int:
        return self._delete(ids)


class MongoDeadLetterStore(MongoCollection):
    """What failed, one letter per stage and source."""

    name = "dead_letters"
    what = "dead letters"

    def list_indexes(self) -> "list[IndexModel]":
        from pymongo import IndexModel

        return [IndexModel([("stage", 1), ("_id", 1)])]

    def put(self, letters: Sequence[DeadLetter]) -> None:
        latest = {letter.id: letter for letter in letters}
        self._replace([(letter.source, to_record(letter, letter.id)) for letter in latest.values()])

    def resolve(self, stage: str, sources: Sequence[str]) -> int:
        return self._delete([_letter_id(stage, source) for source in sources])

    def stream(self, stage: str | None = None) -> Iterator[DeadLetter]:
        matching = {} if stage is None else {"stage": stage}
        return (from_record(DeadLetter, record) for record in self._stream(matching, None, WRITE_BATCH))

    def count(self) -> int:
        with self._connection.translate_errors("counting dead letters"):
            return self._collection().count_documents({})


class MongoEmbeddingCache(MongoCollection):
    """Vectors as little-endian float32, under ``fingerprint:text hash``."""

    name = "embeddings"
    what = "embeddings"

    def get_many(self, fingerprint: str, text_hashes: Sequence[str]) -> dict[str, Vectors]:
        ids = [f"{fingerprint}:{text_hash}" for text_hash in text_hashes]
        start = len(fingerprint) + 1
        return {
            r["_id"][start:]: np.frombuffer(r["vector"], dtype="<f4") for r in self._get(ids, ("vector",))
        }

    def put_many(self, fingerprint: str, vectors: Mapping[str, Vectors]) -> None:
        """Write vectors. What is handed in was looked up before, so nearly all of it is new, and is inserted."""
        for batch in group_batches(list(vectors), WRITE_BATCH):
            bytes_by_id = {f"{fingerprint}:{k}": np.asarray(vectors[k], dtype="<f4").tobytes() for k in batch}
            storable, refused = encode_records((i, {"_id": i, "vector": v}) for i, v in bytes_by_id.items())
            self._write([], storable)
            refuse(self.what, refused)


class MongoVoiceStore(MongoCollection):
    """A record a profile, under author and language."""

    name = "voices"
    what = "voice profiles"

    def put(self, voices: Sequence[VoiceProfile]) -> None:
        self._replace([(voice.id, to_record(voice, voice.id)) for voice in voices])

    def find(self, author: str) -> list[VoiceProfile]:
        prefix = voice_id(author, "")
        # ";" is the character behind ":", so this is the range of all languages.
        matching = {"_id": {"$gte": prefix, "$lt": f"{prefix[:-1]};"}}
        found = [from_record(VoiceProfile, record) for record in self._stream(matching, None, WRITE_BATCH)]
        return sorted(found, key=lambda voice: -voice.words)

    def list_profiles(self) -> Iterator[VoiceProfile]:
        return (from_record(VoiceProfile, record) for record in self._stream({}, None, WRITE_BATCH))

    def delete(self, ids: Sequence[str]) -> int:
        return self._delete(ids)


class MongoWarehouse:
    """All stores on one connection. Nothing is opened before the first use; threads may share it.

    Args:
        uri: a MongoDB URI; may carry credentials, which never appear in a message.
        database: name of the database; made by the first write.
        timeout_seconds: how long to wait for a server before StoreUnavailableError.
    """

    def __init__(self, uri: str, database: str, timeout_seconds: float = 3.0) -> None:
        self._connection = MongoConnection(uri, database, timeout_seconds)
        self.users = MongoUserStore(self._connection)
        self.documents = MongoDocumentStore(self._connection)
        self.clean = MongoCleanStore(self._connection)
        self.dead_letters = MongoDeadLetterStore(self._connection)
        self.embeddings = MongoEmbeddingCache(self._connection)
        self.feedback = MongoFeedbackStore(self._connection)
        self.drafts = MongoDraftStore(self._connection)
        self.generations = MongoGenerationCache(self._connection)
        self.api_keys = MongoKeyStore(self._connection)
        self.voices = MongoVoiceStore(self._connection)
        self.analyses = MongoAnalysisStore(self._connection)
        self.notices = MongoNoticeStore(self._connection)
        self.summaries = MongoSummaryStore(self._connection)

    @property
    def display_uri(self) -> str:
        """Where it is, without credentials."""
        return self._connection.display_uri

    def make_rate_limits(self, per_minute: int) -> MongoTokenBuckets:
        """Return buckets of ``per_minute`` requests a minute that all who use this database share."""
        return MongoTokenBuckets(self._connection, per_minute)

    def ping(self) -> None:
        """Raises StoreUnavailableError where no server answers."""
        self._connection.ping()

    def close(self) -> None:
        self._connection.close()


def _matching(category: str | None, author: str | None) -> dict[str, Any]:
    wanted = {
        "category": category,
        # By id, so that spacing and case of the name do not matter.
        "author_id": None if author is None else User(full_name=author).id,
    }
    return {field: value for field, value in wanted.items() if value is not None}


def _records(documents: Sequence[RawDocument]) -> "tuple[list[tuple[str, RawBSONDocument]], list[str]]":
    derived = ((d, {"content_hash": d.content_hash, "author_id": d.author_id}) for d in documents)
    return encode_records((d.link, to_record(d, d.id, **more)) for d, more in derived)


def _letter_id(stage: str, source: str) -> str:
    return DeadLetter(stage=stage, source=source, reason="", failed_at=datetime.min).id


def _as_fresh(document: RawDocument, stored: Record) -> bool:
    return (document.etag, document.last_modified) == (stored["etag"], stored["last_modified"])


def _refreshment(document: RawDocument) -> "UpdateOne":
    from pymongo import UpdateOne

    return UpdateOne(
        {"_id": document.id, "content_hash": document.content_hash},
        {"$set": {"etag": document.etag, "last_modified": document.last_modified}},
    )
