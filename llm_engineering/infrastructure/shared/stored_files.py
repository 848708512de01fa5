"""Data sets, models and heads, where other machines find them: a folder that all of them mount, or a bucket.

The place of a data set or a model names its content, so what was written once is written for good, and a second upload sends
only what is missing. The manifest comes last: a place that has one is whole.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from loguru import logger

from llm_engineering.application.files import atomic_write
from llm_engineering.domain.errors import MissingDependencyError, ModelFileError

_MODEL = "model.json"
_LAST = (_MODEL, "manifest.json")


class StoredFiles:
    """Keeps files at a location: a folder of this machine, or a URI that fsspec reads.

    Args:
        root: the folder that all machines mount, or ``s3://BUCKET/PREFIX``; None: all stays on this machine.
        cache: the folder that models from a bucket are fetched into.
    """

    def __init__(self, root: str | None, cache: Path) -> None:
        self._root = root.rstrip("/") if root else None
        self._cache = cache

    @property
    def shared(self) -> bool:
        """See the port."""
        return self._root is not None

    def locate(self, place: str, local: Path) -> str:
        """See the port."""
        return f"{self._root}/{place}" if self._root else str(local)

    def publish(self, folder: Path, place: str, names: Sequence[str]) -> str:
        """See the port."""
        location = self.locate(place, folder)
        if location == str(folder):
            return location
        with _explain(location) as (system, path):
            there = {} if not system.exists(path) else system.find(path, detail=True)
            sizes = {name.removeprefix(f"{path}/"): entry["size"] for name, entry in there.items()}
            wanted = sorted(names, key=lambda name: name in _LAST)
            missing = [name for name in wanted if sizes.get(name) != (folder / name).stat().st_size]
            if missing:
                total = sum((folder / name).stat().st_size for name in missing)
                logger.info("To {}: {} file(s), {:.1f} MB.", location, len(missing), total / 1e6)
            for name in missing:
                system.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
                system.put_file(str(folder / name), f"{path}/{name}")
        return location

    def pull(self, place: str, folder: Path) -> None:
        """See the port."""
        location = self.locate(place, folder)
        if not self.shared or location == str(folder):
            return
        with _explain(location) as (system, path):
            system.invalidate_cache()
            for name in sorted(system.find(path), key=lambda name: name.rpartition("/")[2] in _LAST):
                file = folder / name.removeprefix(f"{path}/")
                if not file.exists():
                    _bring(system, name, file)

    def fetch(self, location: str) -> Path:
        """See the port."""
        if "://" not in location:
            return Path(location)
        target = self._cache.joinpath(*location.rstrip("/").split("/")[-2:])
        if (target / _MODEL).is_file():
            return target
        self._cache.mkdir(parents=True, exist_ok=True)
        part = Path(mkdtemp(prefix="part-", dir=self._cache))
        try:
            with _explain(location) as (system, path):
                system.invalidate_cache()
                found = system.find(path)
                if f"{path}/{_MODEL}" not in found:
                    raise ModelFileError(
                        f"There is no whole model at {location}: it has no {_MODEL}. "
                        "Check that SHARED_FILES_URI names the same place here as where it was trained; or train it again."
                    )
                logger.info("Fetching {} ({} files).", location, len(found))
                for name in found:
                    _bring(system, name, part / name.removeprefix(f"{path}/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (target / _MODEL).is_file():  # nobody was faster
                rmtree(target, ignore_errors=True)
                part.rename(target)
        finally:
            rmtree(part, ignore_errors=True)
        return target

    def read(self, location: str, name: str) -> bytes | None:
        """See the port."""
        if "://" not in location:
            file = Path(location) / name
            try:
                return file.read_bytes() if file.is_file() else None
            except OSError as error:
                raise ModelFileError(f"Cannot read {file}: {error.strerror}.") from None
        with _explain(location) as (system, path):
            system.invalidate_cache()
            return bytes(system.cat_file(f"{path}/{name}")) if system.exists(f"{path}/{name}") else None

    def write(self, location: str, name: str, content: bytes) -> None:
        """See the port."""
        if "://" in location:
            with _explain(location) as (system, path):
                system.pipe_file(f"{path}/{name}", content)
            return
        try:
            Path(location).mkdir(parents=True, exist_ok=True)
            atomic_write(Path(location) / name, content)
        except OSError as error:
            raise ModelFileError(
                f"Cannot write {Path(location) / name}: {error.strerror}. Free space or fix the permissions, then rerun."
            ) from None


def _bring(system: Any, name: str, file: Path) -> None:
    """Fetch a file, whole or not at all, with its time: the newest data set is told by it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    system.get_file(name, str(part))
    written = system.modified(name).timestamp()
    os.utime(part, (written, written))
    part.replace(file)


@contextmanager
def _explain(location: str) -> Iterator[tuple[Any, str]]:
    """The file system of a location with the path in it; what goes wrong is told in our words."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(location)
        yield system, str(path).rstrip("/")
    except ModelFileError:
        raise
    except ImportError:
        package = {"s3": "s3fs", "gs": "gcsfs"}.get(location.partition("://")[0], "adlfs")
        raise MissingDependencyError(package, "aws", f"Keeping models at {location}") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"[:300]
        raise ModelFileError(
            f"{location} cannot be reached ({reason}). Check SHARED_FILES_URI, the credentials and the rights on it."
        ) from error
