"""Summaries of products' reviews."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llm_engineering.domain.reviews import StoredSummary
from llm_engineering.infrastructure.stores.mongo.collections import MongoCollection
from llm_engineering.infrastructure.stores.mongo.records import from_record, to_record

if TYPE_CHECKING:
    from pymongo import IndexModel


class MongoSummaryStore(MongoCollection):
    """A record for each product, language and variant, its versions inside, so that taking one's place is one atomic write."""

    name = "summaries"
    what = "summaries of reviews"

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
