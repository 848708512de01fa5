"""Programs of others that tasks run: found, started, and their failures told."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from llm_engineering.domain.errors import ConfigurationError, TwinError

_TOLD_LINES = 12


def find_program(name: str, remedy: str) -> str:
    """Return the path of a program, this environment's own first.

    Raises:
        ConfigurationError: it is not here; ``remedy`` says how to get it.
    """
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if (found := shutil.which(name, path=own)) is None:
        raise ConfigurationError(f"The program '{name}' is not on this machine. {remedy}")
    return found


def run_program(
    command: Sequence[str],
    doing: str,
    *,
    text: str | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    show: bool = False,
) -> str:
    """Run a program to its end and return what it wrote to standard output.

    Args:
        doing: completes "failed while ...".
        text: goes to its standard input.
        environment: variables beside those of this process.
        show: its output is shown as it comes, and not returned.

    Raises:
        TwinError: it ended with another status than 0; the message has the end of what it wrote.
    """
    done = subprocess.run(
        command,
        input=text,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=None if show else subprocess.PIPE,
        stderr=None if show else subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode:
        name = Path(command[0]).name
        told = (done.stderr or done.stdout or "").strip().splitlines()[-_TOLD_LINES:]
        raise TwinError("\n".join([f"{name} failed while {doing} (status {done.returncode}).", *told]))
    return done.stdout or ""
