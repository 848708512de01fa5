"""JSON arrays and JSON Lines, record by record."""

import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO

from llm_engineering.domain.errors import CollectionError, ExtractionError
from llm_engineering.infrastructure.sources.tabular.encoding import open_text, reading_errors
from llm_engineering.infrastructure.sources.tabular.rows import BrokenRow, Row

_PIECE = 1 << 16
_PEEKED_RECORDS = 1_000
MAX_OBJECT_CHARACTERS = 100_000_000
_OUTSIDE = re.compile(r'["\[\]{},]')
_INSIDE = re.compile(r'["\\]')


class JsonTable:
    """A file of JSON objects: an array of them, or one per line. The columns are the keys of the first 1,000 records.

    Args:
        by_line: it is known to be JSON Lines; otherwise the file's beginning tells.
        records_at: where in the file's one object the records are: names of fields with dots between them, ``.`` for the object
            itself. Records that stand under names of their own get that name as ``key``; what is no object is their ``value``.
    """

    def __init__(
        self,
        path: Path,
        encoding: str | None,
        *,
        by_line: bool,
        max_row_chars: int,
        records_at: str | None = None,
    ) -> None:
        self._records_at = records_at
        self._path = path
        self._stream = open_text(path, encoding)
        try:
            with reading_errors(path):
                self._records = self._open(by_line, max_row_chars)
            self._peeked = list(islice(self._records, _PEEKED_RECORDS))
        except BaseException:
            self._stream.close()
            raise
        names = chain.from_iterable(record.values for record in self._peeked if isinstance(record, Row))
        self.columns = tuple(dict.fromkeys(names))

    def _open(self, by_line: bool, max_row_chars: int) -> Iterator[Row | BrokenRow]:
        head = next(
            (line for line in iter(lambda: self._stream.readline(max_row_chars), "") if line.strip()), ""
        )
        self._stream.seek(0)
        first = head.lstrip()[:1]
        if not first:
            raise ExtractionError(
                f"{self._path.name} is empty. Expected an array of objects, or one object per line (JSON Lines)."
            )
        if self._records_at is not None or (first == "{" and not by_line and not _is_object(head)):
            return _find_records(self._stream, self._path, self._records_at)
        if by_line or first == "{":
            elements = read_lines(self._stream, max_row_chars)
        elif first == "[":
            elements = array_elements(self._stream, max_row_chars)
        else:
            raise CollectionError(
                f"{self._path.name} begins with {head.lstrip()[:40]!r}. Expected an array of objects, [{{...}}, ...], "
                "one object per line, or an object that holds records."
            )
        return self._parsed(elements, max_row_chars)

    def _parsed(
        self, elements: Iterator[tuple[int, str | None]], max_row_chars: int
    ) -> Iterator[Row | BrokenRow]:
        while True:
            with reading_errors(self._path):
                line, text = next(elements, (0, ""))
            if not line:
                return
            yield _record(line, text, max_row_chars)

    def read_rows(self, columns: tuple[str, ...]) -> Iterator[Row | BrokenRow]:  # noqa: ARG002 - all come at once
        """Yield every record, those that were looked at for the columns first."""
        yield from chain(self._peeked, self._records)

    def close(self) -> None:
        self._stream.close()


def _find_records(stream: IO[str], path: Path, records_at: str | None) -> Iterator[Row | BrokenRow]:
    """The records in one object, which is read whole; their line is their number."""
    text = stream.read(MAX_OBJECT_CHARACTERS + 1)
    if len(text) > MAX_OBJECT_CHARACTERS:
        raise CollectionError(
            f"{path.name} is one object of more than {MAX_OBJECT_CHARACTERS:,} characters, which would have to be read whole. "
            "Write its records as an array, or one per line."
        )
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CollectionError(f"{path.name} is not valid JSON: {error}") from None
    lists = (
        [name for name, value in found.items() if isinstance(value, list)] if isinstance(found, dict) else []
    )
    if records_at is None and lists:
        raise CollectionError(
            f"{path.name} is one object with lists in it: say where its records are with the option records_at: {lists[0]}."
        )
    for name in filter(None, (records_at or ".").split(".")):
        if not isinstance(found, dict) or name not in found:
            names = ", ".join(found) if isinstance(found, dict) else "no fields"
            raise CollectionError(
                f"{path.name} has nothing at '{records_at}': at '{name}' there are {names[:300]}."
            )
        found = found[name]
    if isinstance(found, dict):
        pairs = [
            {"key": key, **(each if isinstance(each, dict) else {"value": each})}
            for key, each in found.items()
        ]
        return (Row(number, values) for number, values in enumerate(pairs, start=1))
    if not isinstance(found, list):
        raise CollectionError(f"{path.name} has {_kind(found)} at '{records_at}'. Expected records.")
    return (_record(number, json.dumps(each), len(text) + 1) for number, each in enumerate(found, start=1))


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _record(line: int, text: str | None, max_row_chars: int) -> Row | BrokenRow:
    if text is None:
        return BrokenRow(line, f"The record is longer than {max_row_chars:,} characters.")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return BrokenRow(line, f"The record is not valid JSON: {error}", text)
    if not isinstance(value, dict):
        return BrokenRow(line, f"The record is no object with fields, but {_kind(value)}.", text)
    return Row(line, value)


def _kind(value: object) -> str:
    names = {str: "a text", int: "a number", float: "a number", bool: "true or false", list: "a list"}
    return names.get(type(value), "null")


def read_lines(stream: IO[str], max_chars: int) -> Iterator[tuple[int, str | None]]:
    """Yield (line number, text) of every line that is not blank; None for one that is too long."""
    number = 0
    while text := stream.readline(max_chars + 1):
        number += 1
        if len(text) > max_chars and not text.endswith("\n"):
            while (rest := stream.readline(_PIECE)) and not rest.endswith("\n"):
                pass
            yield number, None
        elif text.strip():
            yield number, text.strip()


def array_elements(stream: IO[str], max_chars: int) -> Iterator[tuple[int, str | None]]:
    """Yield (line, text) of the elements of a JSON array, cut at its commas, without holding more than one element.

    A broken element therefore does not end the reading of the others. None stands for one longer than ``max_chars``.

    Raises:
        CollectionError: the array is not closed, or something follows it.
    """
    depth, quoted, escaped, line, size = 0, False, False, 1, 0
    pieces: list[str] = []
    while piece := stream.read(_PIECE):
        start = position = 0
        while True:
            if escaped:
                escaped, position = position >= len(piece), position + 1
            match = (_INSIDE if quoted else _OUTSIDE).search(piece, position)
            if match is None:
                break
            sign, position = match[0], match.end()
            if sign == "\\":
                escaped = True
            elif sign == '"':
                quoted = not quoted
            elif sign in "[{":
                depth += 1
                start = position if depth == 1 else start
            elif depth == 1 and sign in ",]}":
                pieces.append(piece[start : match.start()])
                text, size, start = "".join(pieces), size + match.start() - start, position
                pieces = []
                at = line + text.count("\n", 0, len(text) - len(text.lstrip()))
                line += text.count("\n")
                if text.strip() or sign == ",":
                    yield at, text.strip() if size <= max_chars else None
                size = 0
                if sign != ",":
                    _expect_end(stream, piece[position:], line)
                    return
            elif sign in "]}":
                depth -= 1
        size += len(piece) - start
        rest = piece[start:]
        # An element that is too long is not kept, only its line ends, which later line numbers need.
        pieces.append(rest if size <= max_chars else "\n" * rest.count("\n"))
    raise CollectionError(
        f"The JSON array is not closed: the file ends in the record that begins at line {line} or later."
    )


def _expect_end(stream: IO[str], rest: str, line: int) -> None:
    while rest or (rest := stream.read(_PIECE)):
        if rest.strip():
            raise CollectionError(
                f"After the JSON array ends, at line {line}, there is more: {rest.strip()[:40]!r}."
            )
        rest = ""
