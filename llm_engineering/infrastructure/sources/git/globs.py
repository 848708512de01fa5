"""Patterns over paths of a repository, as ``.gitignore`` and ``.gitattributes`` write them.

A repository's own patterns are a stranger's, so none may take long: the time grows with the lengths of pattern and path
multiplied, whatever stands in them (a regular expression for the whole path would try every way to share it among the stars).
"""

import fnmatch
import re
from collections.abc import Iterable
from functools import lru_cache

MAX_PATTERN_CHARS = 200
"""Longer ones are no patterns that anybody wrote by hand."""
_ANY_FOLDERS = None
"""In place of a part: ``**``."""
_NOTHING = re.compile("(?!)")

_Parts = tuple[re.Pattern[str] | None, ...]


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> _Parts:
    """One pattern per part of a path."""
    if len(pattern) > MAX_PATTERN_CHARS:
        raise re.error(f"it has more than {MAX_PATTERN_CHARS} characters")
    # As in .gitignore: a slash inside (or in front) ties the pattern to the root, a pattern without one holds anywhere.
    parts = [part for part in pattern.split("/") if part]
    if not parts:
        return (_NOTHING,)
    if "/" not in pattern.rstrip("/"):
        parts.insert(0, "**")
    below = pattern.endswith("/")
    while parts and parts[-1] == "**":
        parts.pop()
        below = True
    # What names a folder means everything under it.
    return (*map(_compile_part, [*parts, *(["*"] if below else [])]), _ANY_FOLDERS)


def _compile_part(part: str) -> re.Pattern[str] | None:
    if part == "**":
        return _ANY_FOLDERS
    for written in re.findall(r"\[[!^]?(\]?[^\]]*)\]", part):
        for low, high in re.findall(r"(.)-(.)", written, re.DOTALL):
            if low > high:  # fnmatch takes `[z-a]` for nothing
                raise re.error(f"bad range {low}-{high}")
    # fnmatch gives each star the shortest text that works and never tries again.
    return re.compile(fnmatch.translate(part.replace("[^", "[!")))


def _fits(parts: _Parts, names: list[str]) -> bool:
    at = name = 0
    star, behind = -1, 0
    while name < len(names):
        part = parts[at] if at < len(parts) else None
        if at < len(parts) and part is _ANY_FOLDERS:
            star, behind = at, name
            at += 1
        elif part is not None and part.match(names[name]):
            at += 1
            name += 1
        elif star >= 0:  # one more folder for the last `**`; earlier ones need none
            behind += 1
            at, name = star + 1, behind
        else:
            return False
    return all(part is _ANY_FOLDERS for part in parts[at:])


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Return whether any pattern matches ``path`` (relative to the repository's root, ``/`` between its parts).

    ``*.py`` holds in every folder, ``src/*.py`` only in ``src``, ``docs`` and ``docs/`` for all that lies under a
    folder of that name, ``**`` for any number of folders.

    Raises:
        ValueError: a pattern cannot be read, such as ``[z-a]``.
    """
    names = path.split("/")
    for pattern in patterns:
        try:
            if _fits(_compiled(pattern), names):
                return True
        except re.error as error:
            raise ValueError(f"'{pattern[:80]}' is not a pattern over paths: {error}") from error
    return False
