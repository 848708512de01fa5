"""The outbox: notices that are to be sent, and what became of them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llm_engineering.domain.notices import Notice, StoredNotice
from llm_engineering.infrastructure.stores.mongo.collections import WRITE_BATCH, MongoCollection
from llm_engineering.infrastructure.stores.mongo.records import from_record, to_record

if TYPE_CHECKING:
    from pymongo import IndexModel


class MongoNoticeStore(MongoCollection):
    """A record a notice, under its derived id."""

    name = "notices"
    what = "notices"

    def list_indexes(self) -> "list[IndexModel]":
        """By what is open: the outbox is asked for that alone."""
        from pymongo import IndexModel

        return [IndexModel("done")]

    def put(self, notices: Sequence[Notice]) -> int:
        """Keep notices that are not there yet."""
        from pymongo import UpdateOne

        fresh = {
            notice.id: _encode(StoredNotice(id=notice.id, notice=notice)) for notice in reversed(notices)
        }
        created, _ = self._write(
            [
                UpdateOne(
                    {"_id": key},
                    {"$setOnInsert": {k: v for k, v in record.items() if k != "_id"}},
                    upsert=True,
                )
                for key, record in fresh.items()
            ]
        )
        return created

    def read_open(self) -> Iterator[StoredNotice]:
        """Yield what is not done, ordered by id."""
        return (
            from_record(StoredNotice, record) for record in self._stream({"done": False}, None, WRITE_BATCH)
        )

    def get(self, ids: Sequence[str]) -> list[StoredNotice]:
        """Return the notices that exist among ``ids``, ordered by id."""
        return [from_record(StoredNotice, record) for record in self._get(ids)]

    def replace(self, notice: StoredNotice) -> None:
        """Write what became of a notice."""
        self._replace([(notice.id, _encode(notice))])

    def stream(self) -> Iterator[StoredNotice]:
        """Yield all notices, ordered by id."""
        return (from_record(StoredNotice, record) for record in self._stream({}, None, WRITE_BATCH))

    def delete(self, ids: Sequence[str]) -> int:
        """Forget notices."""
        return self._delete(ids)


def _encode(notice: StoredNotice) -> dict[str, object]:
    record = to_record(notice, notice.id)
    record["notice"]["day"] = notice.notice.day.isoformat()  # BSON has no dates without a time
    return record
