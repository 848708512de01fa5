"""Follows a how-to of ``docs/how-to`` word by word, in a copy of the project.

Blocks are taken in the order of the page:

* ``title="PATH"``: the block becomes a new file;
* ``into="PATH" after="LINE"`` (or ``before=``): the block goes next to the one line of that text; a folder as PATH means
  whichever of its modules holds the line;
* ``sh`` without attributes: the block is run, and must succeed.

Other blocks are for readers only.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = (
    "configs",
    "llm_engineering",
    "pipelines",
    "steps",
    "tests",
    "tools",
    ".env.example",
    "pyproject.toml",
)
SECONDS = 120
"""For one block of commands. Each takes a few seconds; more than this means that it hangs."""
_BLOCK = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_ATTRIBUTE = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class HowToError(AssertionError):
    """A how-to cannot be followed as it is written."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    body: str
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def is_command(self) -> bool:
        """Whether the block is run."""
        return self.language == "sh" and not self.attributes

    @property
    def counts(self) -> bool:
        """Whether the block is more than an illustration."""
        return self.is_command or bool(self.attributes)


def read_blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a Markdown page, in order."""
    blocks = []
    for match in _BLOCK.finditer(page):
        language = match["info"].strip().partition(" ")[0]
        blocks.append(Block(language, match["body"], _read_attributes(match["info"])))
    return blocks


def _read_attributes(info: str) -> dict[str, str]:
    return {name: value.replace('\\"', '"') for name, value in _ATTRIBUTE.findall(info)}


def copy_project(target: Path) -> Path:
    """Copy what a contributor edits into a new folder, and return the folder."""
    target.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name)  # compiled modules too: compiling them again takes seconds
        else:
            shutil.copy(source, target / name)
    return target


def follow(page: str, project: Path) -> None:
    """Do in ``project`` what the page says.

    Raises:
        HowToError: the page does not end in a command, a place it names is not there, or a command fails.
    """
    blocks = [block for block in read_blocks(page) if block.counts]
    if not blocks or not blocks[-1].is_command:
        raise HowToError("a how-to must end in something that runs: a last block of `sh`")
    for block in blocks:
        if block.is_command:
            _run(block.body, project)
        elif "title" in block.attributes:
            _create(project, block)
        elif "into" in block.attributes:
            _insert(project, block)
        else:
            raise HowToError(f"expected title or into, got {sorted(block.attributes)}")


def _create(project: Path, block: Block) -> None:
    path = project / block.attributes["title"]
    if path.exists():
        raise HowToError(f"{block.attributes['title']} is there already; insert into it instead")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.body, encoding="utf-8")


def _insert(project: Path, block: Block) -> None:
    sides = [side for side in ("after", "before") if side in block.attributes]
    if len(sides) != 1:
        raise HowToError("an insertion names one line, by after or before")
    anchor, place = block.attributes[sides[0]], project / block.attributes["into"]
    # A module may have become a package since the page was written, or the other way round.
    candidates = {place, place.with_suffix(".py"), *place.rglob("*.py")}
    found = []
    for path in filter(Path.is_file, sorted(candidates)):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        found += [(path, lines, number) for number, line in enumerate(lines) if line.strip() == anchor]
    if len(found) != 1:
        raise HowToError(f"expected one line {anchor!r} in {block.attributes['into']}, found {len(found)}")
    path, lines, number = found[0]
    lines.insert(number + (sides[0] == "after"), block.body)
    path.write_text("".join(lines), encoding="utf-8")


def _run(commands: str, project: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    environment["PYTHONPATH"] = str(project)  # not the project that these tests run in
    environment["PYTEST_ADDOPTS"] = "-p no:schemathesis"  # seconds at every start, and no page needs it
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        raise HowToError(f"exit status {done.returncode} of:\n{commands}\n{done.stdout[-6000:]}")
