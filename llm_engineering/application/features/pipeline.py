"""The feature use cases: clean, mark near-duplicates, index. Each does only what changed, and can be killed."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from time import perf_counter
from typing import Any, Literal

from loguru import logger

from llm_engineering.application.failures import (
    check_failures,
    dead_letter,
    group_batches,
    in_order,
    round_values,
)
from llm_engineering.application.features.clean import clean, source_hash
from llm_engineering.application.features.index import IndexReport, index_documents
from llm_engineering.application.ports import (
    CleanStore,
    DeadLetterStore,
    DocumentStore,
    Progress,
    SilentProgress,
)
from llm_engineering.application.text import minhash as near_duplicates
from llm_engineering.application.text.privacy import PrivacyPolicy
from llm_engineering.domain.documents import CleanDocument, DeadLetter, RawDocument
from llm_engineering.domain.errors import TwinError

__all__ = [
    "CleaningReport",
    "DuplicateReport",
    "IndexReport",
    "clean_documents",
    "index_documents",
    "mark_near_duplicates",
]

STAGE = "clean"
_SILENT = SilentProgress()


@dataclass(frozen=True, slots=True)
class CleaningReport:
    """What cleaning did, in documents."""

    documents: int
    cleaned: int
    unchanged: int
    deleted: int
    failed: int
    seconds: float

    def to_metadata(self) -> dict[str, Any]:
        """For a run's log and dashboard."""
        return round_values(asdict(self))


@dataclass(frozen=True, slots=True)
class DuplicateReport:
    """What near-duplicate marking found, in documents."""

    documents: int
    compared: int
    """Those with text enough to compare."""
    groups: int
    duplicates: int
    """Documents that say nearly what another one says: all members of groups but the first of each."""
    changed: int
    seconds: float

    def to_metadata(self) -> dict[str, Any]:
        """For a run's log and dashboard."""
        return round_values(asdict(self))


def clean_documents(
    documents: DocumentStore,
    clean_store: CleanStore,
    dead_letters: DeadLetterStore,
    *,
    batch_size: int = 256,
    max_failed_share: float = 0.1,
    privacy: PrivacyPolicy | None = None,
    progress: Progress = _SILENT,
) -> CleaningReport:
    """Clean the raw documents that are new or have changed, and forget those that are gone.

    A document that cannot be cleaned becomes a dead letter of the stage ``clean``; what was cleaned of it before goes,
    and it is tried again by the next run. Another privacy policy than last time cleans all of them again.

    Raises:
        TooManyFailuresError: more than ``max_failed_share`` of all documents failed. What succeeded is stored.
        StoreError: a store failed. Run again: what is done is not done twice.
    """
    started = perf_counter()
    known_letters = {letter.source for letter in dead_letters.stream(STAGE)}
    counts: Counter[str] = Counter()
    failed: set[str] = set()
    changes = _changes(documents, clean_store, counts, privacy)
    while batch := list(islice(changes, batch_size)):
        gone = [identifier for identifier, change in batch if change == "gone"]
        wanted = [identifier for identifier, change in batch if change != "gone"]
        cleaned, letters = _clean_batch(documents.get(wanted) if wanted else [], privacy)
        # A raw document that went away since its hash was read has nothing to be cleaned from either.
        found = {document.id for document in cleaned} | {letter.source for letter in letters}
        replaced = [
            identifier for identifier, change in batch if change == "changed" and identifier not in found
        ]
        stale = gone + replaced + [letter.source for letter in letters]
        if cleaned:
            clean_store.upsert(cleaned)
        if letters:
            dead_letters.put(letters)
            failed.update(letter.source for letter in letters)
        if stale:
            counts["deleted"] += clean_store.delete(stale)
        counts["cleaned"] += len(cleaned)
        progress.advance("Clean documents", len(batch))
    # Every letter of an earlier run that did not come again stands for a document that is now clean, or gone.
    if solved := known_letters - failed:
        dead_letters.resolve(STAGE, sorted(solved))
    report = CleaningReport(
        documents=counts["documents"],
        cleaned=counts["cleaned"],
        unchanged=counts["unchanged"],
        deleted=counts["deleted"],
        failed=len(failed),
        seconds=perf_counter() - started,
    )
    logger.info("Cleaned {cleaned} of {documents} documents, {failed} failed.", **asdict(report))
    check_failures(STAGE, report.failed, report.documents, max_failed_share)
    return report


def mark_near_duplicates(
    clean_store: CleanStore,
    *,
    threshold: float = 0.8,
    batch_size: int = 256,
    progress: Progress = _SILENT,
) -> DuplicateReport:
    """Put documents that say nearly the same into groups named after the smallest id among them.

    Args:
        threshold: least estimated Jaccard similarity of five-word sequences of two documents of a group.
    """
    started = perf_counter()
    compared = 0
    groups: dict[str, str | None] = {}

    def signatures() -> Iterator[tuple[str, bytes, str | None]]:
        nonlocal compared
        for identifier, value, present in clean_store.list_signatures():
            compared += bool(value)
            groups[identifier] = present
            yield identifier, value, present

    changes = near_duplicates.group(signatures(), threshold)
    for part in group_batches(changes.items(), batch_size):
        clean_store.set_groups(dict(part))
        progress.advance("Mark near-duplicates", len(part), total=len(changes))
    groups |= changes
    members = [name for name in groups.values() if name is not None]
    report = DuplicateReport(
        documents=len(groups),
        compared=compared,
        groups=len(set(members)),
        duplicates=len(members) - len(set(members)),
        changed=len(changes),
        seconds=perf_counter() - started,
    )
    logger.info("{duplicates} near-duplicates in {groups} groups, {changed} changed.", **asdict(report))
    return report


def _clean_batch(
    raws: Iterable[RawDocument], privacy: PrivacyPolicy | None
) -> tuple[list[CleanDocument], list[DeadLetter]]:
    cleaned: list[CleanDocument] = []
    letters: list[DeadLetter] = []
    for raw in raws:
        try:
            document = clean(raw, privacy)
            signature = near_duplicates.sign(document.text)
        except (TwinError, ValueError) as error:
            letters.append(dead_letter(STAGE, raw.id, f"{raw.link}: {error}", payload=raw.text[:10_000]))
        else:
            cleaned.append(document.model_copy(update={"signature": signature}))
    return cleaned, letters


def _changes(
    documents: DocumentStore, clean_store: CleanStore, counts: Counter[str], privacy: PrivacyPolicy | None
) -> Iterator[tuple[str, Literal["new", "changed", "gone"]]]:
    """What must be done, by comparing two streams that are both ordered by id."""
    raws = in_order(documents.list_hashes(), "raw documents")
    cleans = in_order(clean_store.source_hashes(), "clean documents")
    raw, held = next(raws, None), next(cleans, None)
    while raw is not None or held is not None:
        if raw is None or (held is not None and held[0] < raw[0]):
            assert held is not None
            yield held[0], "gone"
            held = next(cleans, None)
            continue
        counts["documents"] += 1
        if held is None or raw[0] < held[0]:
            yield raw[0], "new"
        else:
            if source_hash(raw[1], privacy) == held[1]:
                counts["unchanged"] += 1
            else:
                yield raw[0], "changed"
            held = next(cleans, None)
        raw = next(raws, None)
