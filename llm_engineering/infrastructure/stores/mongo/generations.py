"""Replies of language models, kept so that none is paid for twice."""

from collections.abc import Mapping, Sequence

from llm_engineering.application.failures import group_batches
from llm_engineering.application.ports import Generation
from llm_engineering.domain.documents import Model
from llm_engineering.domain.retrieval import Usage
from llm_engineering.infrastructure.stores.mongo.collections import WRITE_BATCH, MongoCollection
from llm_engineering.infrastructure.stores.mongo.records import encode_records, from_record, refuse, to_record


class _Stored(Model):
    text: str
    usage: Usage | None = None


class MongoGenerationCache(MongoCollection):
    """A record a reply, under its key."""

    name = "generations"
    what = "generations"

    def get_many(self, keys: Sequence[str]) -> dict[str, Generation]:
        found = {record["_id"]: from_record(_Stored, record) for record in self._get(keys)}
        return {key: Generation(stored.text, stored.usage) for key, stored in found.items()}

    def put_many(self, generations: Mapping[str, Generation]) -> None:
        """Write replies. What is handed in was looked up before, so nearly all of it is new, and is inserted; a reply that
        another run wrote meanwhile is replaced.

        Raises:
            StoreError: a reply cannot be stored (text that is not valid Unicode); named, and all others were.
        """
        for batch in group_batches(list(generations), WRITE_BATCH):
            records = (
                (key, to_record(_Stored(text=generations[key].text, usage=generations[key].usage), key))
                for key in batch
            )
            storable, refused = encode_records(records)
            self._write([], storable)
            refuse(self.what, refused)
