"""Who may change the collection: runs side by side, or whoever forgets a part of it, alone."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from loguru import logger

from llm_engineering.domain.errors import StoreError
from llm_engineering.settings import Settings


@contextmanager
def hold_collection(settings: Settings, *, alone: bool = False) -> Iterator[None]:
    """Hold the collection for the time of the block. The operating system frees it when the process ends.

    It keeps processes of this machine apart, and those of others that share the data folder.

    Args:
        alone: to take something out; not while a run that collects or builds features is on.

    Raises:
        StoreError: it is held by another process, in a way that excludes this one.
    """
    path = settings.local.data_dir / f"{settings.database.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if alone:
            raise StoreError(
                f"The lock {path} cannot be written ({error.strerror}). Check LOCAL_DATA_DIR."
            ) from error
        logger.debug("No lock on the collection: {} cannot be written: {}", path, error)
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                "A run that collects or builds features is on. Wait until it ends, or stop it; then do this again."
                if alone
                else "A part of the collection is being forgotten. Start this again in a moment."
            ) from None
        yield
    finally:
        os.close(descriptor)
