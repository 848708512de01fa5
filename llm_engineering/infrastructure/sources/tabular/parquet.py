"""Parquet files, in batches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_engineering.domain.errors import CollectionError
from llm_engineering.infrastructure.sources.tabular.rows import BrokenRow, Row

_BATCH_ROWS = 256


class ParquetTable:
    """A Parquet file; of its columns only those that are asked for are read."""

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

    def rows(self, columns: tuple[str, ...]) -> Iterator[Row | BrokenRow]:
        """Yield every row; Parquet has no lines, so rows are numbered from 1."""
        number = 0
        try:
            for batch in self._file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, values)
        except self._errors as error:
            raise CollectionError(f"{self._path.name} is damaged after row {number}: {error}") from error

    def close(self) -> None:
        self._file.close()
