"""How a hint names a task, so that the line can be copied."""

import os

POE = os.environ.get("POE_COMMAND", "./poe")
"""What this process's tasks are called by: ``./poe`` as the user typed it (see the launcher), or ``poetry poe``."""


def describe_install(group: str) -> str:
    """Return the command that adds an optional group of packages."""
    return f"poetry install --with {group}" if POE.startswith("poetry ") else f"{POE} setup --with {group}"
