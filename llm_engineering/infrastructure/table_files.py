"""Tables as Parquet in hive partitions: ``FOLDER/TABLE/created_at=YYYY-MM-DD/part-0.parquet``."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from llm_engineering.domain.errors import StoreError

PARTITION = "created_at"
_BATCH_ROWS = 1_000


class ParquetTables:
    """Writes tables below a folder, each whole: a reader sees the old one until the new one is complete, and none for the
    moment between two renames.

    All columns are texts, since the tables are for engines that cast as they like; missing values are null.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, columns: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> int:
        """Write a table's rows in the order given, by partition; returns how many there were.

        Raises:
            StoreError: the folder cannot be written. What was there stays.
        """
        import pyarrow
        import pyarrow.dataset

        schema = pyarrow.schema([(column, pyarrow.string()) for column in (*columns, PARTITION)])
        target, draft, old = (self._folder / one for one in (name, f".{name}.new", f".{name}.old"))
        written = 0

        def batches() -> Iterator[Any]:
            nonlocal written
            source = iter(rows)
            while part := list(islice(source, _BATCH_ROWS)):
                written += len(part)
                yield pyarrow.RecordBatch.from_pylist([dict(row) for row in part], schema)

        try:
            if old.exists() and not target.exists():
                old.rename(target)  # killed between the renames
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            pyarrow.dataset.write_dataset(
                pyarrow.RecordBatchReader.from_batches(schema, batches()),
                draft,
                format="parquet",
                partitioning=pyarrow.dataset.partitioning(
                    pyarrow.schema([(PARTITION, pyarrow.string())]), flavor="hive"
                ),
                basename_template="part-{i}.parquet",
                existing_data_behavior="overwrite_or_ignore",
                use_threads=False,
                preserve_order=True,
            )
            shutil.rmtree(old, ignore_errors=True)
            if target.exists():
                target.rename(old)
            draft.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        except (OSError, pyarrow.ArrowException) as error:
            shutil.rmtree(draft, ignore_errors=True)
            if old.exists() and not target.exists():
                old.rename(target)
            raise StoreError(f"The table '{name}' cannot be written to {self._folder}: {error}") from error
        return written
