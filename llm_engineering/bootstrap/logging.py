"""Start the log and the progress display as the settings say, with every secret masked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr

from llm_engineering.application.ports import (
    Progress,
)
from llm_engineering.settings import (
    Settings,
)

if TYPE_CHECKING:
    pass


def start_logging(settings: Settings, write: Callable[[str], object] | None = None) -> None:
    """Log as the settings say, with every secret they hold masked."""
    from llm_engineering.infrastructure.logs import configure_logging

    configure_logging(
        format=settings.log.format, level=settings.log.level, secrets=_secrets(settings), write=write
    )


def mask_secrets(text: str, settings: Settings) -> str:
    """Return text without the settings' secrets, and without credentials in addresses: for what leaves this machine."""
    from llm_engineering.infrastructure.logs import mask

    secrets = sorted(filter(None, _secrets(settings)), key=len, reverse=True)
    return mask(text, [secret for secret in secrets if len(secret) >= 6])


def _secrets(group: BaseModel) -> Iterator[str]:
    for name in type(group).model_fields:
        value = getattr(group, name)
        if isinstance(value, BaseModel):
            yield from _secrets(value)
        elif isinstance(value, SecretStr) and name == "uri":
            with suppress(ValueError):  # its settings name the fault
                yield unquote(urlsplit(value.get_secret_value()).password or "")
        elif isinstance(value, SecretStr):
            yield value.get_secret_value()


@contextmanager
def show_progress(settings: Settings) -> Iterator[Progress]:
    """Progress as fits where the output goes; log lines are printed above the bars while they are drawn."""
    from llm_engineering.infrastructure.progress import TerminalProgress, show_bars

    with show_bars() as progress:
        # Here, not only in the command line: on a remote stack a step is the first of our code to run.
        start_logging(settings, progress.write if isinstance(progress, TerminalProgress) else None)
        try:
            yield progress
        finally:
            start_logging(settings)
