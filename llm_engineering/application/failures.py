"""What the stages of a pipeline share: batches, dead letters, the share of failures that is borne."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

from llm_engineering.domain.documents import DeadLetter
from llm_engineering.domain.errors import StoreError, TooManyFailuresError

Item = TypeVar("Item")

MAX_PAYLOAD_CHARS = 10_000
"""Characters of a failed record that a dead letter keeps."""


def group_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Group items into lists of ``size``, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def in_order(rows: Iterable[tuple[str, str]], what: str) -> Iterator[tuple[str, str]]:
    """Yield rows with strictly ascending ids, as they come.

    Raises:
        StoreError: they do not ascend. Two streams that are compared step by step would take documents for gone.
    """
    previous = ""
    for row in rows:
        if row[0] <= previous:
            raise StoreError(
                f"The store hands out {what} out of order: '{row[0]}' after '{previous}'; expected ascending ids. "
                "Check that the collection has no collation of its own."
            )
        previous = row[0]
        yield row


def dead_letter(stage: str, source: str, reason: str, payload: str = "") -> DeadLetter:
    """Return a dead letter of now."""
    return DeadLetter(
        stage=stage,
        source=source,
        reason=reason,
        payload=payload[:MAX_PAYLOAD_CHARS],
        failed_at=datetime.now(UTC),
    )


def check_failures(stage: str, failed: int, total: int, max_failed_share: float) -> None:
    """Let a stage fail that lost too much.

    Raises:
        TooManyFailuresError: more than ``max_failed_share`` of ``total`` failed.
    """
    if failed > total * max_failed_share:
        raise TooManyFailuresError(
            f"{failed} of {total} documents failed in the stage '{stage}', more than the {max_failed_share:.0%} "
            f"that the run bears. Each is kept as rejected by the stage '{stage}', with its reason; everything else is stored. "
            "Mend the cause and run again, or raise `max_failed_share`."
        )


def round_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for people: fractions to three digits, nested ones too."""
    return {
        key: round_values(value)
        if isinstance(value, Mapping)
        else round(value, 3)
        if isinstance(value, float)
        else value
        for key, value in values.items()
    }
