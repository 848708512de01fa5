"""What every store does with its collection: bulk writes that survive races, and reads that stream in batches."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from llm_engineering.application.failures import group_batches
from llm_engineering.domain.errors import StoreUnavailableError
from llm_engineering.infrastructure.stores.mongo.connection import MongoConnection, Record
from llm_engineering.infrastructure.stores.mongo.records import encode_records, refuse

if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument
    from pymongo import IndexModel, ReplaceOne, UpdateOne
    from pymongo.collection import Collection
    from pymongo.cursor import Cursor

Item = TypeVar("Item")

WRITE_BATCH = 1_024
"""Records of one bulk write."""
FIND_BATCH = 256
"""Ids of one lookup. The local server's time grows with the square of it (256: 0.05 s, 1,000: 0.9 s)."""
ROW_BATCH = 10_000
"""Rows of one reply where a row is an id with a hash, about 120 bytes."""
_DUPLICATE_KEY = 11000
_RACE_RETRIES = 10
_PAUSE_SECONDS = 10.0
"""After a server did not answer, so long none is asked by :meth:`MongoCollection._ask_sparingly`."""


class MongoCollection:
    """Base of the stores. ``name`` is the collection's, ``what`` what a reader calls its records."""

    name: str
    what: str
    _paused_until = 0.0

    def __init__(self, connection: MongoConnection) -> None:
        self._connection = connection

    def list_indexes(self) -> "list[IndexModel]":
        """Ensured at the first use. Every ``_id`` is derived from the source, so identity needs none."""
        return []

    def _collection(self) -> "Collection[Record]":
        return self._connection.open_collection(self.name, self.list_indexes())

    @contextmanager
    def _ask_sparingly(self) -> Iterator[None]:
        """Where the server is gone, ask it only now and then: what every request of the service writes from a thread would
        else have all its threads wait.

        Raises:
            StoreUnavailableError: no server answers, or none did in the last ten seconds.
        """
        if time.monotonic() < self._paused_until:
            raise StoreUnavailableError(
                f"The data warehouse at {self._connection.display_uri} did not answer a moment ago; nothing is written to "
                f"its {self.what}."
            )
        try:
            yield
        except StoreUnavailableError:
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
            raise

    def _get(self, ids: Sequence[str], fields: Sequence[str] | None = None) -> Iterator[Record]:
        """Records of any number of ids, ordered by id; a round trip per FIND_BATCH, unless a reply exceeds 16 MB."""
        for batch in group_batches(sorted(set(ids)), FIND_BATCH):
            with self._connection.translate_errors(f"reading {self.what}"):
                cursor = self._collection().find({"_id": {"$in": batch}}, _projection(fields))
                yield from cursor.sort("_id", 1).batch_size(FIND_BATCH + 1)

    def _stream(
        self, matching: Mapping[str, Any], fields: Sequence[str] | None, batch_size: int
    ) -> Iterator[Record]:
        """Records in id order, one round trip per batch.

        A server forgets a cursor that nobody asks for minutes (embedding a batch may take longer), or when it is
        restarted: then a new one starts behind the last id. It is an error only when that one fails at once as well.
        """
        from pymongo.errors import AutoReconnect, CursorNotFound

        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        last: str | None = None
        resumed_from: str | None = None
        with self._connection.translate_errors(f"reading {self.what}"):
            while True:
                try:
                    with self._cursor(matching, fields, last) as cursor:
                        for record in cursor.batch_size(batch_size):
                            last = record["_id"]
                            yield record
                    return
                except (AutoReconnect, CursorNotFound):
                    if last == resumed_from:
                        raise
                    resumed_from = last

    def _cursor(
        self, matching: Mapping[str, Any], fields: Sequence[str] | None, after: str | None
    ) -> "Cursor[Record]":
        query = dict(matching) if after is None else {**matching, "_id": {"$gt": after}}
        cursor = self._collection().find(query, _projection(fields)).sort("_id", 1)
        # Unasked, the local server sorts the whole collection in memory instead of following the index.
        return cursor if matching else cursor.hint("_id_")

    def _replace(self, records: Sequence[tuple[str, Record]]) -> None:
        """Upsert (name for a reader, record) in bulk, WRITE_BATCH at a time.

        Raises:
            StoreError: some cannot be stored; all others were.
        """
        from pymongo import ReplaceOne

        complaints: list[str] = []
        for batch in group_batches(records, WRITE_BATCH):
            storable, refused = encode_records(batch)
            complaints += refused
            self._write(
                [ReplaceOne({"_id": identifier}, record, upsert=True) for identifier, record in storable]
            )
        refuse(self.what, complaints)

    def _write(
        self,
        operations: "Sequence[ReplaceOne[Any] | UpdateOne]",
        new: "Sequence[tuple[str, RawBSONDocument]]" = (),
    ) -> tuple[int, int]:
        """(records created, records matched) by one unordered bulk write. ``new`` are (id, record) not stored so far.

        New ones are inserted, which is faster than an upsert. Two writers that create the same id at
        the same moment: the server lets one insert it and answers the other with a duplicate key; that write is
        repeated as an upsert, and replaces.
        """
        from pymongo import InsertOne, ReplaceOne
        from pymongo.errors import BulkWriteError

        created = matched = 0
        pending: list[Any] = [*operations, *(InsertOne(record) for _, record in new)]
        again: list[Any] = [
            *operations,
            *(ReplaceOne({"_id": key}, record, upsert=True) for key, record in new),
        ]
        with self._connection.translate_errors(f"writing {self.what}"):
            for attempt in range(_RACE_RETRIES):
                if not pending:
                    break
                try:
                    result: Mapping[str, Any] = (
                        self._collection().bulk_write(pending, ordered=False).bulk_api_result
                    )
                    pending = []
                except BulkWriteError as error:
                    result = error.details
                    raced = all(failure["code"] == _DUPLICATE_KEY for failure in result["writeErrors"])
                    if not raced or attempt == _RACE_RETRIES - 1 or result["writeConcernErrors"]:
                        raise
                    pending = again = [again[failure["index"]] for failure in result["writeErrors"]]
                created += result["nInserted"] + result["nUpserted"]
                matched += result["nMatched"]
        return created, matched

    def _delete(self, ids: Sequence[str]) -> int:
        from pymongo import DeleteOne

        deleted = 0
        with self._connection.translate_errors(f"deleting {self.what}"):
            for batch in group_batches(sorted(set(ids)), WRITE_BATCH):
                # Not one delete with $in: the local server compares every record with every id.
                operations = [DeleteOne({"_id": identifier}) for identifier in batch]
                deleted += self._collection().bulk_write(operations, ordered=False).deleted_count
        return deleted


def _projection(fields: Sequence[str] | None) -> dict[str, int] | None:
    return None if fields is None else dict.fromkeys(fields, 1)
