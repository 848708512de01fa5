"""A published generation, open for reading."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llm_engineering.application.ports import MAX_KNOWN_VALUES, FacetValues
from llm_engineering.domain.documents import EmbedderFingerprint
from llm_engineering.domain.facets import Facet, FacetKind
from llm_engineering.infrastructure.index.qdrant_edge.engine import load, translate_errors
from llm_engineering.infrastructure.index.qdrant_edge.generations import Lease
from llm_engineering.infrastructure.shared.index_payload import (
    FACET_FIELD,
    FORMAT,
    check_fingerprint,
    describe_index,
    facet_key,
    summarise_facet,
)

if TYPE_CHECKING:
    from qdrant_edge import Filter

SCROLL_POINTS = 2_000
MAX_VALUES = 100_000


class OpenGeneration:
    """A generation loaded for reading. ``users`` is guarded by the index's lock."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.users = 0
        self._retired = False
        self._values: dict[str, dict[str, int]] = {}
        try:
            manifest = lease.manifest
            self.format: str | int = manifest["format"]
            self.fingerprint = EmbedderFingerprint.model_validate(manifest["fingerprint"])
            self.titles: bool = manifest.get("titles", False)  # older manifests do not say
            with lease.lock_data():
                self.shard = load(lease.data)
        except BaseException:
            lease.release()
            raise

    @property
    def described(self) -> str:
        return describe_index(self.fingerprint, self.titles)

    def continues(self, fingerprint: EmbedderFingerprint, titles: bool) -> bool:
        return self.format == FORMAT and self.fingerprint == fingerprint and self.titles == titles

    def require(self, fingerprint: EmbedderFingerprint, collection: str) -> None:
        check_fingerprint(self.fingerprint, fingerprint, collection)

    def count(self, accepted: "Filter | None") -> int:
        from qdrant_edge import CountRequest

        with translate_errors("counting"):
            return self.shard.count(CountRequest(filter=accepted, exact=True))

    def count_values(self, field: str) -> dict[str, int]:
        """Return distinct values of a field with the number of chunks of each. Counted once: a generation does not
        change, and every question with a filter asks (6 ms for each field of 100,000 chunks, as much as the search
        itself)."""
        from qdrant_edge import FacetRequest

        if field not in self._values:
            with translate_errors("counting values"):
                hits = self.shard.facet(FacetRequest(field, limit=MAX_VALUES, exact=True)).hits
            self._values[field] = {str(hit.value): hit.count for hit in hits}
        return dict(self._values[field])

    def read_facet(self, facet: Facet, accepted: "Filter") -> FacetValues:
        """Return the values of a facet among the records whose first chunk is accepted."""
        from qdrant_edge import Direction, FacetRequest, OrderBy, ScrollRequest

        key, counts, ends = facet_key(facet.name), list[tuple[Any, int]](), list[Any]()
        with translate_errors("counting values"):
            if facet.kind not in (FacetKind.FLOAT, FacetKind.DATETIME):
                asked = FacetRequest(key, limit=MAX_KNOWN_VALUES + 1, exact=True, filter=accepted)
                counts = [(hit.value, hit.count) for hit in self.shard.facet(asked).hits]
            for direction in (Direction.Asc, Direction.Desc) if facet.ordered else ():
                first = ScrollRequest(
                    limit=1, filter=accepted, with_payload=[FACET_FIELD], order_by=OrderBy(key, direction)
                )
                records, _ = self.shard.scroll(first)
                ends += [(record.payload or {})[FACET_FIELD][facet.name][0] for record in records]
        return summarise_facet(facet, counts, (ends[0], ends[1]) if len(ends) == 2 else None)

    def scroll(self, accepted: "Filter", fields: list[str]) -> Iterator[dict[str, Any]]:
        from qdrant_edge import ScrollRequest

        offset: Any = None
        while True:
            request = ScrollRequest(offset=offset, limit=SCROLL_POINTS, filter=accepted, with_payload=fields)
            with translate_errors("reading"):
                records, offset = self.shard.scroll(request)
            for record in records:
                yield record.payload or {}
            if offset is None:
                return

    def leave(self) -> None:
        self.users -= 1
        self._close_unused()

    def retire(self) -> None:
        """Close as soon as nobody searches in it any more."""
        self._retired = True
        self._close_unused()

    def _close_unused(self) -> None:
        if self._retired and self.users == 0:
            with self.lease.lock_data(), translate_errors("closing"):
                self.shard.close()
            self.lease.release()
