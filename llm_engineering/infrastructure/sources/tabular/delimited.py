"""CSV and TSV, in their many dialects."""

import csv
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO

from llm_engineering.domain.errors import CollectionError, ExtractionError
from llm_engineering.infrastructure.sources.tabular.encoding import open_text, reading_errors
from llm_engineering.infrastructure.sources.tabular.rows import BrokenRow, Row

DELIMITERS = ",;\t|"
_SAMPLE_ROWS = 50


class _Lines:
    """The lines of a stream for the csv module; those of the row being read are kept, so that they can be read anew."""

    def __init__(self, stream: IO[str], max_chars: int) -> None:
        self._stream = stream
        self._max_chars = max_chars
        self._waiting: deque[str] = deque()
        self.of_row: list[str] = []
        self.number = 0
        """Lines handed out so far."""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else self._stream.readline(self._max_chars)
        if not line:
            raise StopIteration
        self.of_row.append(line)
        self.number += 1
        return line

    def only_first_was_read(self) -> None:
        """Put back all lines of the row but its first."""
        self._waiting.extendleft(reversed(self.of_row[1:]))
        self.number -= len(self.of_row) - 1
        del self.of_row[1:]


class DelimitedTable:
    """A file of rows with a header line.

    Args:
        delimiter: None: the one of comma, semicolon, tab and bar that cuts the first rows most evenly.
        max_row_chars: a longer field ends its row as broken.
    """

    def __init__(self, path: Path, encoding: str | None, delimiter: str | None, max_row_chars: int) -> None:
        self._path = path
        self._stream = open_text(path, encoding)
        try:
            with reading_errors(path):
                # The csv module's one limit for all readers: raised, never lowered.
                csv.field_size_limit(max(csv.field_size_limit(), max_row_chars))
                self._delimiter = delimiter or self._sniff(max_row_chars)
                self._lines = _Lines(self._stream, max_row_chars)
                self.columns = self._header()
        except BaseException:
            self._stream.close()
            raise

    def _sniff(self, max_row_chars: int) -> str:
        if self._path.name.lower().removesuffix(".gz").endswith((".tsv", ".tab")):
            return "\t"
        sample: list[str] = []
        while len(sample) < _SAMPLE_ROWS and sum(map(len, sample)) < max_row_chars:
            sample.append(self._stream.readline(max_row_chars))
        self._stream.seek(0)
        return max(DELIMITERS, key=lambda delimiter: _evenness(sample, delimiter))

    def _cells(self) -> Iterator[list[str] | csv.Error]:
        """Every row's fields, or what is wrong with a row. After a broken row the next line begins a new one, so that
        a quote that is never closed costs its own line and not the rest of the file."""
        reader = csv.reader(self._lines, delimiter=self._delimiter, strict=True)
        while True:
            self._lines.of_row.clear()
            try:
                with reading_errors(self._path):
                    yield next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                self._lines.only_first_was_read()
                yield error
                reader = csv.reader(self._lines, delimiter=self._delimiter, strict=True)

    def _header(self) -> tuple[str, ...]:
        for cells in self._cells():
            if isinstance(cells, csv.Error):
                raise CollectionError(f"The header of {self._path.name} cannot be read: {cells}.")
            if any(cell.strip() for cell in cells):
                return tuple(name.strip() for name in cells)
        raise ExtractionError(
            f"{self._path.name} is empty. Expected a line with the names of the columns, then rows."
        )

    def read_rows(self, columns: tuple[str, ...]) -> Iterator[Row | BrokenRow]:  # noqa: ARG002 - all come at once
        """Yield every row under the header; blank lines are no rows."""
        for cells in self._cells():
            line = self._lines.number - len(self._lines.of_row) + 1
            raw = "".join(self._lines.of_row)
            if isinstance(cells, csv.Error):
                yield BrokenRow(line, f"The row cannot be read: {cells}.", raw)
            elif not any(cell.strip() for cell in cells):
                continue
            elif len(cells) == len(self.columns):
                yield Row(line, dict(zip(self.columns, cells, strict=True)))
            else:
                reason = f"The row has {len(cells)} fields where the header has {len(self.columns)}."
                if len(cells) > len(self.columns):
                    reason += " A field that holds the delimiter or a line end must stand in double quotes."
                yield BrokenRow(line, reason, raw)

    def close(self) -> None:
        self._stream.close()


def _evenness(sample: list[str], delimiter: str) -> tuple[int, int]:
    """(rows as wide as the header, width) when cut by ``delimiter``; nothing where the header is not cut at all."""
    try:
        rows = [
            row for row in islice(csv.reader(filter(None, sample), delimiter=delimiter), _SAMPLE_ROWS) if row
        ]
    except csv.Error:
        return (0, 0)
    width = len(rows[0]) if rows else 0
    return (sum(len(row) == width for row in rows), width) if width > 1 else (0, 0)
