"""Domain values to stored records and back, without loss."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from llm_engineering.domain.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument

MAX_RECORD_BYTES = 16 * 1024 * 1024
"""MongoDB's limit of one stored document."""

_UNSAFE_IN_KEYS = re.compile("[%.$\x00\ud800-\udfff]")
_ESCAPED = re.compile("%u([0-9A-F]{4})")

Value = TypeVar("Value", bound=BaseModel)


def safe_key(key: str) -> str:
    """Return a metadata key as a field name: dots, dollars, NUL and surrogates are escaped; MongoDB would not keep
    them."""
    return _UNSAFE_IN_KEYS.sub(lambda match: f"%u{ord(match[0]):04X}", key) or "%"


def original_key(key: str) -> str:
    """Undoes :func:`safe_key`."""
    return "" if key == "%" else _ESCAPED.sub(lambda match: chr(int(match[1], 16)), key)


def to_record(value: BaseModel, identifier: str, **derived: Any) -> dict[str, Any]:
    """Return the fields of a value, under ``_id``, with what is derived from it (a content hash, an author's id)."""
    record = {"_id": identifier, **value.model_dump(exclude={"id"}), **derived}
    if "metadata" in record:
        record["metadata"] = {safe_key(key): item for key, item in record["metadata"].items()}
    return record


def from_record(kind: type[Value], record: dict[str, Any]) -> Value:
    """Return a value of ``kind``; derived fields are left aside.

    Raises:
        StoreError: the record is not one (another program wrote it, or another version of this one).
    """
    fields = {name: record[name] for name in kind.model_fields if name in record}
    if "id" in kind.model_fields:
        fields["id"] = record["_id"]
    if "metadata" in fields:
        fields["metadata"] = {original_key(key): item for key, item in fields["metadata"].items()}
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        problems = error.errors(include_url=False)[:3]
        reasons = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems)
    except ConfigurationError as error:  # a category that is not known any more
        reasons = str(error)
    raise StoreError(
        f"The stored {kind.__name__} {record['_id']} cannot be read: {reasons.rstrip('.')}. It was written by another "
        "program or version; delete it and collect its source again."
    )


def encode_records(
    records: Iterable[tuple[str, dict[str, Any]]],
) -> "tuple[list[tuple[str, RawBSONDocument]], list[str]]":
    """Return ((id, storable record) ..., complaints about the others). ``records`` are (name for a reader, record).

    Encoding here, once, finds what MongoDB cannot hold before it takes a whole batch down with it.
    """
    from bson import encode
    from bson.errors import InvalidDocument, InvalidStringData
    from bson.raw_bson import RawBSONDocument

    storable: list[tuple[str, RawBSONDocument]] = []
    complaints: list[str] = []
    for name, record in records:
        try:
            data = encode(record)
        except (OverflowError, InvalidDocument, InvalidStringData, UnicodeEncodeError) as error:
            complaints.append(f"{name}: {error}")
            continue
        if len(data) > MAX_RECORD_BYTES:
            complaints.append(
                f"{name}: {len(data):,} bytes, where MongoDB holds at most {MAX_RECORD_BYTES:,}"
            )
            continue
        storable.append((record["_id"], RawBSONDocument(data)))
    return storable, complaints


def refuse(kind: str, complaints: Sequence[str]) -> None:
    """Raise StoreError for what could not be stored, naming each (the first five)."""
    if not complaints:
        return
    shown = "\n".join(f"  - {complaint[:500]}" for complaint in complaints[:5])
    more = f"\n  ... and {len(complaints) - 5:,} more" if len(complaints) > 5 else ""
    raise StoreError(f"{len(complaints):,} {kind} cannot be stored; all others were.\n{shown}{more}")
