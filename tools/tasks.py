"""List the tasks of ``pyproject.toml`` by group, or say which one a mistyped name is close to: what ``./poe`` shows by itself.

The first group is told in full, of the others the names, so that a screen or two hold it; with ``--all`` every task is told.

Run as a file, before anything is imported: the standard library only.
"""

import difflib
import os
import shutil
import signal
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
LAUNCHERS_OWN = {
    "setup": "Look after the environment; --with GROUP adds observability, evaluation, training, harness, gpu or aws",
    "poetry": "The project's private Poetry",
}
ALL = "--all"
_NARROW = 100
"""Columns below which long names stand on a line of their own."""


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    poe = os.environ.get("POE_COMMAND", "./poe")
    groups = read_groups(PROJECT)
    told_all = bool(words) and words[0] in (ALL, "-h", "--help")
    if words and not told_all:
        known = [*LAUNCHERS_OWN, *(task for tasks in groups.values() for task in tasks)]
        print(suggest_task(words[0], known, poe), file=sys.stderr)
        return 1
    print(f"{poe} TASK [ARGUMENTS]     ({poe} TASK --help tells more)")
    print("" if told_all else f"{poe} {ALL}                what each task does\n")
    groups["Of the launcher itself"] = LAUNCHERS_OWN
    width = shutil.get_terminal_size().columns
    first = list(groups)[:1]
    print(list_tasks(groups if told_all else {name: groups[name] for name in first}, width))
    if not told_all:
        print(f"\n{list_names({name: tasks for name, tasks in groups.items() if name not in first}, width)}")
    return 0


def read_groups(project: Path) -> dict[str, dict[str, str]]:
    """Return for each group's heading its tasks, each with what it does; those without a group come last."""
    poe: dict[str, Any] = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["poe"]
    groups = sorted(poe.get("groups", {}).items())
    found = {group.get("heading", name): _describe(group["tasks"]) for name, group in groups}
    return found | ({"Other": _describe(poe["tasks"])} if poe.get("tasks") else {})


def _describe(tasks: Mapping[str, Any]) -> dict[str, str]:
    return {name: task.get("help", "") for name, task in tasks.items() if not name.startswith("_")}


def list_tasks(groups: Mapping[str, Mapping[str, str]], width: int) -> str:
    """Return the list, no line longer than ``width`` columns where no single word is."""
    column = 34 if width >= _NARROW else 22 if width >= 60 else 4
    lines = []
    for heading, tasks in groups.items():
        lines += [heading]
        for name, about in tasks.items():
            told = textwrap.wrap(about, max(width - column, 20), break_on_hyphens=False) or [""]
            start = f"  {name}"
            if len(start) < column - 1:
                lines.append(f"{start:<{column}}{told.pop(0)}".rstrip())
            else:
                lines.append(start)
            lines += [" " * column + line for line in told if line]
        lines.append("")
    return "\n".join(lines).rstrip()


def list_names(groups: Mapping[str, Iterable[str]], width: int) -> str:
    """Return the names of each group's tasks under its heading, no line longer than ``width`` columns where no name is."""
    told = []
    for heading, names in groups.items():
        lines = textwrap.wrap(", ".join(names), max(width - 2, 20), break_on_hyphens=False)
        told.append("\n".join([heading, *(f"  {line}" for line in lines)]))
    return "\n\n".join(told)


def suggest_task(name: str, known: Sequence[str], poe: str) -> str:
    """Return one line on a task that does not exist: what it may have been meant for, or how to see them all."""
    parts = [task for task in known if name in task.split("-")] if len(name) > 2 else []
    close = list(dict.fromkeys([*parts, *difflib.get_close_matches(name, known, n=3, cutoff=0.65)]))[:3]
    if not close:
        return f"There is no task '{name}'. All tasks: {poe}"
    return f"There is no task '{name}'. Did you mean: {', '.join(close)}?"


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ./poe | head
    sys.exit(main())
