"""Results of analyses."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llm_engineering.domain.analyses import Analysis
from llm_engineering.infrastructure.stores.mongo.collections import ROW_BATCH, MongoCollection
from llm_engineering.infrastructure.stores.mongo.records import from_record, to_record

if TYPE_CHECKING:
    from pymongo import IndexModel


class MongoAnalysisStore(MongoCollection):
    """A record a result, its findings inside."""

    name = "analyses"
    what = "analyses"

    def list_indexes(self) -> "list[IndexModel]":
        from pymongo import IndexModel

        return [IndexModel([("task", 1), ("_id", 1)])]

    def upsert(self, analyses: Sequence[Analysis]) -> None:
        self._replace([(one.id, to_record(one, one.id)) for one in analyses])

    def list_versions(self, task: str) -> Iterator[tuple[str, str]]:
        records = self._stream({"task": task}, ("_id", "key"), ROW_BATCH)
        return ((record["_id"], record["key"]) for record in records)

    def get(self, ids: Sequence[str]) -> list[Analysis]:
        return [from_record(Analysis, record) for record in self._get(ids)]

    def stream(self, *, task: str | None = None, batch_size: int = 256) -> Iterator[Analysis]:
        records = self._stream({} if task is None else {"task": task}, None, batch_size)
        return (from_record(Analysis, record) for record in records)

    def count_by_task(self) -> dict[str, int]:
        with self._connection.translate_errors("counting analyses"):
            rows = list(self._collection().aggregate([{"$group": {"_id": "$task", "count": {"$sum": 1}}}]))
        return {row["_id"]: row["count"] for row in sorted(rows, key=lambda row: str(row["_id"]))}

    def delete(self, ids: Sequence[str]) -> int:
        return self._delete(ids)
