"""Where tables lie: files and folders of this machine or of a bucket, by path or pattern; and databases."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from glob import has_magic
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from llm_engineering.application.features.links import hide_credentials
from llm_engineering.domain.errors import CollectionError, ExtractionError, FetchError

FORMATS = {
    "csv": "csv",
    "tsv": "csv",
    "tab": "csv",
    "txt": "csv",
    "json": "json",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
    "pq": "parquet",
    "db": "sqlite",
    "sqlite": "sqlite",
    "sqlite3": "sqlite",
}
_IN_FOLDERS = tuple(name for name in FORMATS if name != "txt")
BUCKETS = ("s3", "gs", "gcs", "az", "abfs", "memory")
"""Schemes that fsspec reads; each but ``memory`` with a package of its own (s3fs, gcsfs, adlfs)."""
_DATABASE = re.compile(r"(?i)^(?:sqlite|postgresql|mysql|mariadb|mssql|oracle)(?:\+\w+)?://")
_PIECE = 1 << 20
_MOST_FILES = 10_000


def is_database(url: str) -> bool:
    """Return whether a link is the address of a database."""
    return _DATABASE.match(url) is not None


def is_bucket(url: str) -> bool:
    """Return whether a link leads into a bucket."""
    return _scheme(url) in BUCKETS


def is_web(url: str) -> bool:
    """Return whether a link is a web address."""
    return _scheme(url) in ("http", "https")


def form_of(name: str) -> str | None:
    """Return the format that a file's name or an option tells; None where it is no table's."""
    return FORMATS.get(name.lower().removesuffix(".gz").rpartition(".")[2])


def list_tables(url: str) -> list[str] | None:
    """Return the tables in a folder, or under a pattern, in order; None where the link is one file. Blocking.

    Raises:
        ExtractionError: there is none.
        CollectionError: there are too many, or a bucket cannot be listed.
    """
    if is_bucket(url):
        found = _list_bucket(url)
    else:
        path = Path(local_path(url))
        if path.is_dir():
            found = [str(one) for one in sorted(path.rglob("*")) if one.is_file() and _is_table(one.name)]
        elif has_magic(str(path)) and not path.exists():
            found = sorted(str(one) for one in _glob(path) if one.is_file() and form_of(one.name))
        else:
            return None
    if found is None:
        return None
    if not found:
        raise ExtractionError(
            f"There is no table in {hide_credentials(url)}. Expected files that end in {', '.join(FORMATS)} (also with .gz)."
        )
    if len(found) > _MOST_FILES:
        raise CollectionError(
            f"{hide_credentials(url)} holds {len(found):,} tables; at most {_MOST_FILES:,} are read. Name a part of it."
        )
    return found


def local_path(url: str) -> str:
    """Return the path that a link means.

    Raises:
        CollectionError: it has a scheme that no table is read by.
    """
    scheme = _scheme(url)
    if scheme not in ("", "file"):
        raise CollectionError(
            f"{hide_credentials(url)} cannot be read as a table. Expected a path, a file, http or https URL, a bucket "
            f"({', '.join(f'{name}://' for name in BUCKETS[:2])}) or a database (postgresql://…, sqlite:///PATH)."
        )
    return str(Path(unquote(urlsplit(url).path) if scheme else url).expanduser())


def find_file(url: str) -> Path:
    """Return the file of this machine that a link means.

    Raises:
        CollectionError: there is none.
    """
    path = Path(local_path(url))
    if not path.is_file():
        raise CollectionError(
            f"There is no file {str(path)!r}. Relative paths start at the folder of the command."
        )
    return path


def fetch(url: str, folder: Path, most_bytes: int) -> Path:
    """Copy a file out of a bucket. Blocking.

    Raises:
        FetchError: it is not there, may not be read, or is larger than allowed.
    """
    target = folder / (Path(urlsplit(url).path).name or "table")
    with _bucket_errors(url):
        system, path = _open_bucket(url)
        size = 0
        with system.open(path, "rb") as source, target.open("wb") as file:
            while piece := source.read(_PIECE):
                size += len(piece)
                if size > most_bytes:
                    raise FetchError(
                        f"{hide_credentials(url)} is larger than the limit of {most_bytes:,} bytes"
                    )
                file.write(piece)
    return target


def _scheme(url: str) -> str:
    return urlsplit(url).scheme.lower() if "://" in url or url.lower().startswith("file:") else ""


def _is_table(name: str) -> bool:
    return name.lower().removesuffix(".gz").rpartition(".")[2] in _IN_FOLDERS


def _glob(pattern: Path) -> Iterator[Path]:
    parts = pattern.parts
    fixed = next(place for place, part in enumerate(parts) if has_magic(part))
    return Path(*parts[:fixed]).glob(str(Path(*parts[fixed:])))


def _list_bucket(url: str) -> list[str] | None:
    with _bucket_errors(url):
        system, path = _open_bucket(url)
        if has_magic(path):
            names = system.glob(path)
        elif system.isdir(path):
            names = system.find(path)
        else:
            return None
        return [system.unstrip_protocol(name) for name in sorted(names) if _is_table(name)]


def _open_bucket(url: str) -> tuple[Any, str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    system.invalidate_cache()  # what was listed in an earlier run may have changed
    return system, path


@contextmanager
def _bucket_errors(url: str) -> Iterator[None]:
    shown = hide_credentials(url)
    try:
        yield
    except ImportError as error:
        raise CollectionError(f"{shown} needs a package that is not installed: {error}.") from None
    except FileNotFoundError:
        raise FetchError(f"there is nothing at {shown}") from None
    except OSError as error:
        raise FetchError(f"{shown} cannot be read: {error.strerror or error}") from error
    except CollectionError:
        raise
    except Exception as error:
        raise FetchError(
            f"{shown} cannot be read: {type(error).__name__}: {hide_credentials(str(error))}"
        ) from error
