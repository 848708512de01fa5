"""Say what is wrong with a configuration, all problems at once: shared by the settings and by the YAML of a run."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any


def describe_error(where: str, error: Mapping[str, Any], *, show_value: bool = True) -> str:
    """Describe one of pydantic's validation errors: where it is, what was expected, and what was given.

    Args:
        where: the variable or the path of the key.
        show_value: False for secrets. Mappings are never shown.
    """
    given = "" if not show_value or isinstance(error["input"], Mapping) else f" (got {error['input']!r})"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{given}"


def suggest_name(name: str, known: Collection[str]) -> str:
    """Suggest the known name that is closest to a misspelt one; empty where none is close."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def list_problems(problems: Sequence[str]) -> str:
    """List problems, one a line, below a line that counts them."""
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return f"{len(problems)} problem(s):\n{lines}"
