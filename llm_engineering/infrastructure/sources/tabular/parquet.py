"""Parquet files, in batches."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from llm_engineering.domain.errors import CollectionError
from llm_engineering.infrastructure.shared.workers import Workers, WorkStoppedError
from llm_engineering.infrastructure.sources.tabular.rows import BrokenRow, Row

_BATCH_ROWS = 256
_BATCH_BYTES = 64 << 20
"""Batches that would be larger are read with fewer rows."""
TRIAL_BYTES = 1 << 30


class ParquetTable:
    """A Parquet file; of its columns only those that are asked for are read.

    A file of a kilobyte can hold gigabytes (one text in every row, a list of one number), and says of itself what it likes. So it
    is read to its end by a process that may not have much memory, before it is read here.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self._path = path
        self._errors: tuple[type[Exception], ...] = (pyarrow.ArrowException, OSError)
        try:
            self._file: Any = pyarrow.parquet.ParquetFile(path)
        except self._errors as error:
            raise CollectionError(f"{path.name} cannot be read as Parquet: {error}") from error
        self.columns = tuple(self._file.schema_arrow.names)

    def read_rows(self, columns: tuple[str, ...]) -> Iterator[Row | BrokenRow]:
        """Yield every row; Parquet has no lines, so rows are numbered from 1."""
        try:
            largest = _trial().call(measure_batches, self._path, columns)
        except WorkStoppedError as error:
            raise CollectionError(
                f"{self._path.name} was given up, since reading it was tried and stopped: {error}. Write it anew with shorter "
                "texts or lists."
            ) from error
        number = 0
        batch_rows = max(1, min(_BATCH_ROWS, _BATCH_ROWS * _BATCH_BYTES // max(1, largest)))
        try:
            for batch in self._file.iter_batches(batch_size=batch_rows, columns=list(columns)):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, values)
        except self._errors as error:
            raise CollectionError(f"{self._path.name} is damaged after row {number}: {error}") from error

    def close(self) -> None:
        self._file.close()


@cache
def _trial() -> Workers:
    return Workers(most=1, cpu_seconds=300.0, memory_bytes=TRIAL_BYTES)


def measure_batches(path: Path, columns: tuple[str, ...]) -> int:
    """Read a file to its end, or to its damage; return the bytes of its largest batch."""
    import pyarrow
    import pyarrow.parquet

    largest = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns), use_threads=False):
                # A dictionary holds a text once, however many rows it stands in; a row has it for itself.
                whole = [
                    column.dictionary_decode() if isinstance(column, pyarrow.DictionaryArray) else column
                    for column in batch.columns
                ]
                largest = max(largest, sum(column.nbytes for column in whole))
                batch.to_pylist()
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError):
        pass  # the reader says after which row
    return largest
