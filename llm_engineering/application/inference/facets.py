"""What a search can be filtered on: the values that the index holds, read in one go and kept for a moment."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from llm_engineering.application.ports import VectorIndex
from llm_engineering.domain.retrieval import MetadataFilter

Field = Literal["author", "category", "platform", "language"]

FILTERS: tuple[tuple[str, Field], ...] = (
    ("authors", "author"),
    ("categories", "category"),
    ("platforms", "platform"),
    ("languages", "language"),
)
"""Fields of a :class:`MetadataFilter`, and what the index calls them."""
FIELDS = tuple(name for _, name in FILTERS)


@dataclass(frozen=True, slots=True)
class KnownValues:
    """Distinct values of each filterable field with the number of chunks of each."""

    author: Mapping[str, int] = field(default_factory=dict)
    category: Mapping[str, int] = field(default_factory=dict)
    platform: Mapping[str, int] = field(default_factory=dict)
    language: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, index: VectorIndex, fields: Iterable[Field] = FIELDS) -> "KnownValues":
        """Read the fields; creates nothing. Blocking.

        Raises:
            StoreError: the index is not there, or failed.
        """
        return cls(**{name: index.values(name) for name in fields})

    def of(self, name: Field) -> Mapping[str, int]:
        values: Mapping[str, int] = getattr(self, name)
        return values

    @staticmethod
    def named_by(filter: MetadataFilter) -> tuple[Field, ...]:
        """The fields in which the filter names values; dates and document ids are not looked up."""
        return tuple(name for plural, name in FILTERS if getattr(filter, plural))

    def cover(self, filter: MetadataFilter) -> bool:
        """Whether every value that the filter names exists."""
        return all(value in self.of(name) for plural, name in FILTERS for value in getattr(filter, plural))


class FilterValues:
    """The index's values, read at most every few seconds however many requests ask.

    Args:
        keep_seconds: how long a reading may be old. An index that is replaced meanwhile is seen that much later; a
            caller who names a value that is not known has it looked up afresh (``fresh=True``).
        clock: seconds that only grow.
    """

    def __init__(
        self, index: VectorIndex, keep_seconds: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._index = index
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: tuple[float, KnownValues] | None = None

    async def get(self, *, fresh: bool = False) -> KnownValues:
        """The values; without a thread where they are still kept.

        Raises:
            StoreError: the index is not there, or failed.
        """
        kept = None if fresh else self._current()
        return kept if kept is not None else await asyncio.to_thread(self._read, fresh)

    def _current(self) -> KnownValues | None:
        kept = self._kept
        return kept[1] if kept and self._clock() - kept[0] < self._keep_seconds else None

    def _read(self, fresh: bool) -> KnownValues:
        with self._lock:  # of many requests that find nothing kept, one reads
            kept = None if fresh else self._current()
            if kept is not None:
                return kept
            read = KnownValues.read(self._index)
            self._kept = (self._clock(), read)
            return read
