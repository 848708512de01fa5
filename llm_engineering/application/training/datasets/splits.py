"""Splits by document: train, validation and test share no document, no near-duplicate of one, and no group that a sample names.

A document's place is a hash of its id (or its duplicate group's) with the seed, so that it stays where it is when other
documents are added. It can move in two cases only: when its duplicate group changes, and when it had been moved to fill
a split that no document's hash fell into.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TypeVar, cast

from loguru import logger

from llm_engineering.application.training.datasets.config import SplitShares
from llm_engineering.application.training.datasets.samples import Sample
from llm_engineering.application.training.groups import join_groups
from llm_engineering.domain.datasets import Split
from llm_engineering.domain.errors import InvalidInputError

S = TypeVar("S", bound=Sample)


def split_by_document(
    samples: Sequence[S],
    groups: Mapping[str, str | None],
    shares: SplitShares,
    seed: int,
    documents: Iterable[str] = (),
) -> dict[Split, list[S]]:
    """Return samples by split, each with its ``split`` set, in their order.

    Args:
        samples: of any number of documents.
        groups: duplicate group by document id; None, or no entry, for a document that stands alone.
        shares: of the documents; a split with share 0 stays empty.
        seed: another one gives another split.
        documents: ids of all documents that samples could have come of. With these, the data sets of one warehouse are split
            alike, also where few documents make it necessary to fill a split.

    Raises:
        InvalidInputError: there are fewer documents (near-duplicates counted once) than splits to fill.
    """
    units = join_groups({sample.origin.document_id: _list_names(sample, groups) for sample in samples})
    others = {groups.get(document) or document for document in documents}
    places = assign(set(units.values()), shares, seed, others)
    found: dict[Split, list[S]] = {split: [] for split in Split}
    for sample in samples:
        split = places[units[sample.origin.document_id]]
        found[split].append(cast("S", sample.model_copy(update={"split": split})))
    return found


def _list_names(sample: Sample, groups: Mapping[str, str | None]) -> list[str]:
    """Names of what stays on one side with a sample."""
    origin = sample.origin
    return list(filter(None, (origin.group, groups.get(origin.document_id)))) or [origin.document_id]


def assign(
    units: set[str], shares: SplitShares, seed: int, others: Set[str] = frozenset()
) -> dict[str, Split]:
    """Return a split for each unit (a document, or a group of near-duplicates); ``others`` have no samples, but take
    part.

    Where no hash falls into a split that has a share, the unit closest to it is moved there from the split that has most.

    Raises:
        InvalidInputError: fewer units than splits to fill.
    """
    bounds = _bounds(shares)
    if not units:
        return {}
    if len(units) < len(bounds):
        raise InvalidInputError(
            f"{len(units)} document(s) with samples (near-duplicates counted once) cannot be split into "
            f"{', '.join(bounds)}: each needs one of its own. Collect more documents, loosen the gates, or set a split's "
            "share to 0 in the run's YAML under 'splits'."
        )
    every = sorted(units | others)
    places = {unit: _home(hash_position(unit, seed), bounds) for unit in every}
    _fill(places, every, bounds, seed)
    _fill(places, sorted(units), bounds, seed)  # those that have samples must do without the others
    return {unit: places[unit] for unit in units}


def _home(value: float, bounds: Mapping[Split, tuple[float, float]]) -> Split:
    return next(split for split, (low, high) in bounds.items() if low <= value < high)


def _fill(
    places: dict[str, Split], units: Sequence[str], bounds: Mapping[Split, tuple[float, float]], seed: int
) -> None:
    """Move a unit into each split that holds none of ``units``."""
    for split, (low, high) in bounds.items():
        counts = Counter(places[unit] for unit in units)
        if counts[split]:
            continue
        largest = max(bounds, key=lambda name: counts[name])
        at = {unit: hash_position(unit, seed) for unit in units if places[unit] is largest}
        nearest = min(at, key=lambda unit: max(low - at[unit], at[unit] - high))
        places[nearest] = split
        logger.warning(
            "Few documents: none fell into the split '{}' by its hash, so one was moved there from '{}'.",
            split,
            largest,
        )


def hash_position(unit: str, seed: int) -> float:
    """Return where a unit lies between 0 and 1, evenly spread."""
    digest = hashlib.sha256(f"{seed}\x00{unit}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _bounds(shares: SplitShares) -> dict[Split, tuple[float, float]]:
    # Test first: its documents stay the same when the shares of the others change.
    bounds, low = {}, 0.0
    for split, share in (
        (Split.TEST, shares.test),
        (Split.VALIDATION, shares.validation),
        (Split.TRAIN, shares.train),
    ):
        if share > 0:
            bounds[split] = (low, low + share)
            low += share
    last = Split.TRAIN
    bounds[last] = (bounds[last][0], 1.0)  # shares add up to 1 but for rounding
    return bounds
