"""Drafts that the twin wrote, with the versions that people made of them."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llm_engineering.domain.drafts import StoredDraft
from llm_engineering.infrastructure.stores.mongo.collections import MongoCollection
from llm_engineering.infrastructure.stores.mongo.connection import Record
from llm_engineering.infrastructure.stores.mongo.feedback import KEPT
from llm_engineering.infrastructure.stores.mongo.records import encode_records, from_record, refuse, to_record

if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument
    from pymongo import IndexModel

_NEWEST_FIRST = [("created_at", -1), ("_id", -1)]


class MongoDraftStore(MongoCollection):
    """One record a draft, its versions inside, so that an edit is one atomic write that names the revision it replaces.

    ``expires_at`` stands only on drafts that nobody edited; the server itself deletes by it, as it does with answers.
    """

    name = "drafts"
    what = "drafts"

    def list_indexes(self) -> "list[IndexModel]":
        from pymongo import IndexModel

        return [IndexModel("expires_at", expireAfterSeconds=0), IndexModel(_NEWEST_FIRST)]

    def save(self, draft: StoredDraft) -> None:
        """Keep a draft for 30 days. One that was edited under the same id stays as it is.

        Raises:
            StoreError: it cannot be stored (too large, or text that is not valid Unicode).
            StoreUnavailableError: no server answers, or none did in the last ten seconds.
        """
        from pymongo.errors import DuplicateKeyError

        record = _encode(draft, expires_at=draft.created_at + KEPT)
        with self._ask_sparingly(), self._connection.translate_errors("keeping a draft"):
            try:
                self._collection().replace_one({"_id": draft.id, "revision": 0}, record, upsert=True)
            except DuplicateKeyError:
                return  # the one stored was edited

    def find(self, draft_id: str) -> StoredDraft | None:
        with self._connection.translate_errors("reading a draft"):
            record = self._collection().find_one({"_id": draft_id, **_alive()})
        return None if record is None else from_record(StoredDraft, record)

    def read_page(self, count: int, *, before: tuple[datetime, str] | None = None) -> list[StoredDraft]:
        wanted: list[dict[str, Any]] = [_alive()]
        if before is not None:
            at, identifier = before
            wanted.append(
                {"$or": [{"created_at": {"$lt": at}}, {"created_at": at, "_id": {"$lt": identifier}}]}
            )
        with self._connection.translate_errors("reading drafts"):
            cursor = self._collection().find({"$and": wanted}).sort(_NEWEST_FIRST).limit(count)
            records = list(cursor.batch_size(count + 1))
        return [from_record(StoredDraft, record) for record in records]

    def replace(self, draft: StoredDraft, base_revision: int) -> bool:
        record = _encode(draft)
        with self._connection.translate_errors("keeping an edited draft"):
            result = self._collection().replace_one({"_id": draft.id, "revision": base_revision}, record)
        return bool(result.matched_count)

    def delete(self, draft_id: str) -> bool:
        return bool(self._delete([draft_id]))

    def read_edited(self, *, batch_size: int = 256) -> Iterator[StoredDraft]:
        records = self._stream({"revision": {"$gt": 0}}, None, batch_size)
        return (from_record(StoredDraft, record) for record in records)

    def restore(self, drafts: Sequence[StoredDraft]) -> None:
        self._replace([(draft.id, _record(draft)) for draft in drafts])


def _record(draft: StoredDraft, **derived: Any) -> Record:
    return to_record(draft, draft.id, revision=draft.revision, **derived)


def _encode(draft: StoredDraft, **derived: Any) -> "RawBSONDocument":
    """The record, ready to be stored.

    Raises:
        StoreError: MongoDB cannot hold it.
    """
    storable, refused = encode_records([(draft.id, _record(draft, **derived))])
    refuse("drafts", refused)
    return storable[0][1]


def _alive() -> dict[str, Any]:
    # None also matches where the field is missing: a draft that was edited.
    return {"$or": [{"expires_at": None}, {"expires_at": {"$gt": datetime.now(UTC)}}]}
