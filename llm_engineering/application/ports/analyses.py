"""Results of analyses."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from llm_engineering.domain.analyses import Analysis


class AnalysisStore(Protocol):
    """Results of analyses, by their derived ids. Writes are bulk upserts that can be repeated."""

    def upsert(self, analyses: Sequence[Analysis]) -> None:
        """Write results; what is stored under their ids is replaced.

        Raises:
            StoreError: one cannot be stored; named, and all others were.
        """
        ...

    def list_versions(self, task: str) -> Iterator[tuple[str, str]]:
        """Yield (analysis id, key) of every result of a task, ordered by id."""
        ...

    def get(self, ids: Sequence[str]) -> list[Analysis]:
        """Return the results that exist among ``ids``, in one round trip, ordered by id."""
        ...

    def stream(self, *, task: str | None = None, batch_size: int = 256) -> Iterator[Analysis]:
        """Yield all results, of a task or of all, ordered by id, never more than a batch in memory."""
        ...

    def count_by_task(self) -> dict[str, int]:
        """Return the number of results by task."""
        ...

    def delete(self, ids: Sequence[str]) -> int: ...
