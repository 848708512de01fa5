"""Summaries of products' reviews."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from llm_engineering.domain.reviews import ReviewCheck, StoredSummary


class SummaryStore(Protocol):
    """Summaries by product, language and variant. Writes are bulk upserts that can be repeated."""

    def put_many(self, summaries: Sequence[StoredSummary]) -> None:
        """Write summaries; what is stored for the same product, language and variant is replaced.

        Raises:
            StoreError: one cannot be stored; named, and all others were.
        """
        ...

    def get(self, ids: Sequence[str]) -> list[StoredSummary]:
        """Return the summaries that exist among ``ids`` (``derive_summary_id``), in one round trip, ordered by id."""
        ...

    def list_of_product(self, product: str) -> list[StoredSummary]:
        """Return a product's summaries in all languages and variants, ordered by id."""
        ...

    def stream(self, *, waiting: bool = False, batch_size: int = 256) -> Iterator[StoredSummary]:
        """Yield all summaries, or those alone of which a version waits for a person, ordered by id, never more than a batch
        in memory."""
        ...

    def delete(self, ids: Sequence[str]) -> int:
        """Forget summaries with all their versions. Returns how many there were."""
        ...

    def put_check(self, check: ReviewCheck) -> None:
        """Keep what a look at reviews and summaries found; another of the same moment is replaced."""
        ...

    def list_checks(self, most: int) -> list[ReviewCheck]:
        """Return the newest looks, the newest first."""
        ...
