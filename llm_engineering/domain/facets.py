"""Typed fields of records, by which a search is narrowed, counted and sorted.

A facet's values lie in a record's metadata as :class:`Facet` reads them: the one place that says what a value means.
"""

import math
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar = str | int | float | bool
MetadataValue = Scalar | tuple[str, ...]
"""A value of a record's metadata; several texts where a field holds many."""
MAX_LISTED_VALUES = 100
"""Values of a facet that are listed; one with more (customers, order numbers) can be filtered on, and is no list."""
_LARGEST_INTEGER = 2**53
"""Whole numbers up to here are the same as floating-point numbers, which every index compares by."""


class FacetKind(StrEnum):
    KEYWORD = "keyword"
    INTEGER = "integer"
    FLOAT = "float"
    DATETIME = "datetime"
    """A point in time; kept as ISO 8601 text in UTC."""
    BOOL = "bool"


class Facet(BaseModel):
    """A field of records, with the type of its values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    kind: FacetKind = FacetKind.KEYWORD
    many: bool = False
    """A record may have several values; in a cell they are a list, or stand between ``|``, ``;`` or ``,``. Keywords only."""
    label: str = ""
    """What people call it; the name, with spaces, where empty."""
    words: tuple[str, ...] = ()
    """Other words before its value in a question: "rated above 7"."""

    @model_validator(mode="after")
    def _only_keywords_are_many(self) -> "Facet":
        if self.many and self.kind is not FacetKind.KEYWORD:
            raise ValueError(f"facet '{self.name}': only keywords can be many, not {self.kind} values")
        return self

    @property
    def title(self) -> str:
        """Return what people call it."""
        return self.label or self.name.replace("_", " ")

    @property
    def ordered(self) -> bool:
        """Return whether its values have an order, so that ranges can be asked for."""
        return self.kind in (FacetKind.INTEGER, FacetKind.FLOAT, FacetKind.DATETIME)

    def read(self, value: Any) -> MetadataValue:
        """Return a cell as a value of this kind.

        Raises:
            ValueError: it is none; the message says what was expected.
        """
        match self.kind:
            case FacetKind.KEYWORD if self.many:
                return _read_many(value)
            case FacetKind.KEYWORD:
                return _read_keyword(value)
            case FacetKind.BOOL:
                return _read_bool(value)
            case FacetKind.DATETIME:
                return _read_moment(value).isoformat()
        return _read_number(value, whole=self.kind is FacetKind.INTEGER)

    def read_key(self, value: Any) -> str | int | float:
        """Return one of the values that a record may have, as an index holds it: true and false are words.

        Raises:
            ValueError: it is of another kind.
        """
        if self.many:
            return _read_keyword(value)
        read = self.read(value)
        if isinstance(read, bool):
            return "true" if read else "false"
        return read  # type: ignore[return-value]  # only a facet of many reads a tuple

    def read_end(self, value: Any) -> str | int | float:
        """Return the end of a range, comparable with keys.

        Raises:
            ValueError: it is of another kind, or the facet's values have no order.
        """
        if not self.ordered:
            raise ValueError(f"{self.name} holds {self.kind} values, which have no range: use any_of")
        if self.kind is FacetKind.DATETIME:
            return _read_moment(value).isoformat()
        return _read_number(value, whole=False)

    def list_keys(self, value: Any) -> tuple[str | int | float, ...]:
        """Return what an index holds of a metadata value: nothing where it is not of this kind (stored before it was
        declared, say)."""
        try:
            read = self.read(value)
            return read if isinstance(read, tuple) else (self.read_key(read),)
        except ValueError:
            return ()


def _read_many(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        mark = next((mark for mark in "|;," if mark in value), None)
        value = value.split(mark) if mark else [value]
    if not isinstance(value, list | tuple):
        value = [value]
    words = [_read_keyword(part) for part in value if not (isinstance(part, str) and not part.strip())]
    return tuple(dict.fromkeys(words))


def _read_keyword(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected a text, got {_shown(value)}")
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_INTEGER:
        value = int(value)  # a column of whole numbers with a gap becomes decimals in data frames
    return " ".join(str(value).split())


def _read_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().casefold()
    if word in ("true", "yes", "1", "1.0", "ja"):
        return True
    if word in ("false", "no", "0", "0.0", "nein"):
        return False
    raise ValueError(f"expected true or false, got {_shown(value)}")


def _read_number(value: Any, *, whole: bool) -> int | float:
    expected = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected {expected}, got {_shown(value)}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"expected {expected}, got {_shown(value)}") from None
    if not math.isfinite(number) or abs(number) >= _LARGEST_INTEGER:
        raise ValueError(f"expected {expected} below 2^53, got {_shown(value)}")
    if number.is_integer():
        return int(number)
    if whole:
        raise ValueError(f"expected {expected}, got {_shown(value)}")
    return number


def _read_moment(value: Any) -> datetime:
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        if isinstance(value, datetime):
            moment = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
            # Stores and indexes keep milliseconds; one spelling, so that texts compare as the moments do.
            return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"expected an ISO 8601 date or date-time, got {_shown(value)}")


def _shown(value: Any) -> str:
    return repr(value)[:60]
