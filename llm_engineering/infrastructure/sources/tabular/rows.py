"""What every table format gives: rows, and rows that could not be read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Row:
    line: int
    """Line of the file where the record begins, from 1; the record's number where a format has no lines (Parquet)."""
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BrokenRow:
    line: int
    reason: str
    payload: str = ""


class Table(Protocol):
    """An open table. Reading goes forward once, and holds no more than a batch in memory."""

    columns: tuple[str, ...]
    """Names of the columns, in order. Of JSON, those of the first records."""

    def read_rows(self, columns: tuple[str, ...]) -> Iterator[Row | BrokenRow]:
        """Yield all rows, with (at least) the given columns.

        Raises:
            CollectionError: the file is broken in a way that leaves no way to go on; rows before it stay valid.
        """
        ...

    def close(self) -> None: ...
