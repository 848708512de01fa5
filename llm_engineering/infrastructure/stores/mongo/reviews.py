"""Summaries of products' reviews."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llm_engineering.domain.reviews import ReviewCheck, StoredSummary
from llm_engineering.infrastructure.stores.mongo.collections import MongoCollection
from llm_engineering.infrastructure.stores.mongo.connection import MongoConnection
from llm_engineering.infrastructure.stores.mongo.records import from_record, to_record

if TYPE_CHECKING:
    from pymongo import IndexModel


class _Checks(MongoCollection):
    """What looks at reviews and summaries found."""

    name = "review_checks"
    what = "checks of reviews"

    def list_indexes(self) -> "list[IndexModel]":
        from pymongo import IndexModel

        return [IndexModel([("at", -1)])]

    def put(self, check: ReviewCheck) -> None:
        self._replace([(check.at.isoformat(), to_record(check, check.id))])

    def list_newest(self, most: int) -> list[ReviewCheck]:
        with self._connection.translate_errors("reading checks of reviews"):
            records = list(self._collection().find({}).sort("at", -1).limit(most))
        return [from_record(ReviewCheck, record) for record in records]


class MongoSummaryStore(MongoCollection):
    """A record for each product, language and variant, its versions inside, so that taking one's place is one atomic write."""

    name = "summaries"
    what = "summaries of reviews"

    def __init__(self, connection: MongoConnection) -> None:
        super().__init__(connection)
        self._checks = _Checks(connection)

    def list_indexes(self) -> "list[IndexModel]":
        from pymongo import IndexModel

        return [IndexModel([("product", 1), ("_id", 1)]), IndexModel([("held", 1), ("_id", 1)])]

    def put_many(self, summaries: Sequence[StoredSummary]) -> None:
        self._replace(
            [
                (one.product, to_record(one, one.id, product=one.product, held=one.waiting is not None))
                for one in summaries
            ]
        )

    def get(self, ids: Sequence[str]) -> list[StoredSummary]:
        return [from_record(StoredSummary, record) for record in self._get(ids)]

    def list_of_product(self, product: str) -> list[StoredSummary]:
        return [
            from_record(StoredSummary, record) for record in self._stream({"product": product}, None, 256)
        ]

    def stream(self, *, waiting: bool = False, batch_size: int = 256) -> Iterator[StoredSummary]:
        records = self._stream({"held": True} if waiting else {}, None, batch_size)
        return (from_record(StoredSummary, record) for record in records)

    def delete(self, ids: Sequence[str]) -> int:
        return self._delete(ids)

    def put_check(self, check: ReviewCheck) -> None:
        self._checks.put(check)

    def list_checks(self, most: int) -> list[ReviewCheck]:
        return self._checks.list_newest(most)
