"""What became of every link of a collection run."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

from llm_engineering.domain.errors import TooManyFailuresError

MAX_REASONS = 5
"""Reasons listed in an error message; the table and the dead letters hold all of them."""
MAX_LISTED = 500
"""Links listed in the metadata, failed ones first: a metadata store is no place for a sitemap of 50,000."""


class LinkStatus(StrEnum):
    SAVED = "saved"
    """At least one document is new."""
    UPDATED = "updated"
    """Nothing is new, but at least one document changed or was removed."""
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LinkOutcome:
    """How collecting one link ended. Counts are of documents; a feed's documents are counted by the links it led to."""

    url: str
    """Without credentials."""
    author: str
    reader: str
    status: LinkStatus
    reason: str = ""
    """Why it failed; empty otherwise."""
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    rejections: tuple[tuple[str, str], ...] = ()
    """(source, reason) of the first rejected records, at most ``MAX_REASONS``."""
    removed: int = 0
    discovered: int = 0
    """Links it led to."""
    found_through: str | None = None
    """The feed or sitemap that led here."""
    seconds: float = 0.0

    @property
    def documents(self) -> int:
        return self.created + self.updated + self.unchanged


COLUMNS = ("link", "reader", "status", "new", "changed", "same", "rejected", "removed", "seconds", "reason")


@dataclass(frozen=True, slots=True)
class CollectionReport:
    """All outcomes, in the order in which the links were given or discovered."""

    outcomes: Sequence[LinkOutcome]
    seconds: float
    max_failed_share: float = 1.0
    """The share that the run was given; :meth:`check` uses it unless told another."""
    duplicates: int = 0
    """Links that were named more than once and collected once."""
    links_by_status: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        counted = Counter(outcome.status.value for outcome in self.outcomes)
        object.__setattr__(
            self, "links_by_status", {status.value: counted[status.value] for status in LinkStatus}
        )

    def total(self, count: str) -> int:
        """Return sum over all links of ``created``, ``updated``, ``unchanged``, ``rejected``, ``removed`` or
        ``documents``."""
        return sum(int(getattr(outcome, count)) for outcome in self.outcomes)

    @property
    def failed(self) -> list[LinkOutcome]:
        return [outcome for outcome in self.outcomes if outcome.status is LinkStatus.FAILED]

    @property
    def failed_share(self) -> float:
        """Failed links over all links, from 0 to 1."""
        return len(self.failed) / len(self.outcomes) if self.outcomes else 0.0

    @property
    def rejected_share(self) -> float:
        """Rejected records over all records, from 0 to 1."""
        rejected = self.total("rejected")
        return rejected / (rejected + self.total("documents")) if rejected else 0.0

    def check(self, max_failed_share: float | None = None) -> None:
        """Refuse a run that lost too much, be it links or records.

        Raises:
            TooManyFailuresError: more than ``max_failed_share`` of the links failed, or of the records were rejected.
        """
        limit = self.max_failed_share if max_failed_share is None else max_failed_share
        if self.failed_share > limit:
            raise TooManyFailuresError(
                f"{len(self.failed)} of {len(self.outcomes)} links could not be collected ({self.failed_share:.0%}); "
                f"at most {limit:.0%} may fail (max_failed_share).\n{self._reasons()}\n"
                "What was collected is saved; fix or remove these links and run again."
            )
        if self.rejected_share > limit:
            raise TooManyFailuresError(
                f"{self.total('rejected'):,} records were rejected ({self.rejected_share:.0%} of all); "
                f"at most {limit:.0%} may be (max_failed_share). Each is kept with its reason among the dead letters; "
                "what was read is saved."
            )

    def _reasons(self) -> str:
        lines = [f"  - {outcome.url}: {outcome.reason}" for outcome in self.failed[:MAX_REASONS]]
        if len(self.failed) > MAX_REASONS:
            lines.append(f"  - and {len(self.failed) - MAX_REASONS} more")
        return "\n".join(lines)

    def _rejections(self) -> Iterator[tuple[str, str]]:
        for outcome in self.outcomes:
            yield from outcome.rejections

    def rows(self) -> list[tuple[str, ...]]:
        """Return one row per link, for a table with the headings ``COLUMNS``."""
        return [
            (
                outcome.url,
                outcome.reader,
                outcome.status.value,
                str(outcome.created),
                str(outcome.updated),
                str(outcome.unchanged),
                str(outcome.rejected),
                str(outcome.removed),
                f"{outcome.seconds:.1f}",
                outcome.reason or (f"led to {outcome.discovered} links" if outcome.discovered else ""),
            )
            for outcome in self.outcomes
        ]

    def to_metadata(self) -> dict[str, Any]:
        """Return plain numbers, texts and dictionaries, for the run's metadata. At most ``MAX_LISTED`` links are
        listed."""
        listed = sorted(self.outcomes, key=lambda outcome: outcome.status is not LinkStatus.FAILED)[
            :MAX_LISTED
        ]
        found_through: Counter[str | None] = Counter()  # over all links, since those listed may be fewer
        rejected: Counter[str | None] = Counter()
        for outcome in self.outcomes:
            found_through[outcome.found_through] += outcome.documents
            rejected[outcome.found_through] += outcome.rejected
        return {
            "links": len(self.outcomes),
            "links_by_status": dict(self.links_by_status),
            "failed_share": round(self.failed_share, 4),
            "duplicate_links": self.duplicates,
            "documents_created": self.total("created"),
            "documents_updated": self.total("updated"),
            "documents_unchanged": self.total("unchanged"),
            "documents_removed": self.total("removed"),
            "records_rejected": self.total("rejected"),
            "seconds": round(self.seconds, 3),
            "rejections": dict(islice(self._rejections(), MAX_LISTED)),
            "failures": {outcome.url: outcome.reason for outcome in self.failed[:MAX_LISTED]},
            "outcomes": {
                outcome.url: {
                    "reader": outcome.reader,
                    "status": outcome.status.value,
                    "documents": outcome.documents + found_through[outcome.url],
                    "rejected": outcome.rejected + rejected[outcome.url],
                    "discovered": outcome.discovered,
                    "found_through": outcome.found_through or "",
                    "seconds": round(outcome.seconds, 3),
                }
                for outcome in listed
            },
        }
