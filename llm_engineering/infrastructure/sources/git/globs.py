"""Patterns over paths of a repository, as ``.gitignore`` and ``.gitattributes`` write them."""

import re
from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    # As in .gitignore: a slash inside (or in front) ties the pattern to the root, a pattern without one holds anywhere.
    body = pattern.strip("/")
    anchored = "/" in pattern.rstrip("/")
    parts: list[str] = [] if anchored else ["(?:.*/)?"]
    position = 0
    while position < len(body):
        if body.startswith("**/", position):
            parts.append("(?:.*/)?")
            position += 3
        elif body.startswith("**", position):
            parts.append(".*")
            position += 2
        elif body[position] == "[" and (end := body.find("]", position + 2)) > 0:
            inner = body[position + 1 : end].replace("\\", "\\\\")
            parts.append("[^/" + inner[1:] + "]" if inner[0] in "!^" else f"[{inner}]")
            position = end + 1
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(body[position], re.escape(body[position])))
            position += 1
    # What names a folder means everything under it.
    return re.compile("".join(parts) + ("/.+" if pattern.endswith("/") else "(?:/.*)?"))


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Return whether any pattern matches ``path`` (relative to the repository's root, ``/`` between its parts).

    ``*.py`` holds in every folder, ``src/*.py`` only in ``src``, ``docs`` and ``docs/`` for all that lies under a
    folder of that name, ``**`` for any number of folders.

    Raises:
        ValueError: a pattern cannot be read, such as ``[z-a]``.
    """
    for pattern in patterns:
        try:
            if _compiled(pattern).fullmatch(path):
                return True
        except re.error as error:
            raise ValueError(f"'{pattern}' is not a pattern over paths: {error}") from error
    return False
