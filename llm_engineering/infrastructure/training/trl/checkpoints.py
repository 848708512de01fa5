"""Find the newest complete checkpoint; one that an interrupted run left unfinished is ignored."""

import json
import re
import shutil
from pathlib import Path

from llm_engineering.application.files import atomic_write

WHOLE = "WHOLE"
_RESUMPTIONS = "resumptions.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_whole(checkpoint: Path) -> None:
    """Say that all of a checkpoint is on disk, and what that is: copied elsewhere and back, a part of it may be missing."""
    files = {
        file.name: file.stat().st_size
        for file in checkpoint.iterdir()
        if file.is_file() and file.name != WHOLE
    }
    atomic_write(checkpoint / WHOLE, json.dumps(files))


def is_whole(checkpoint: Path) -> bool:
    """Return whether a checkpoint was written to its end, and everything is still there."""
    try:
        files = json.loads((checkpoint / WHOLE).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def find_newest(folder: Path) -> Path | None:
    """Return the last whole checkpoint; the remains of one that was being written are removed."""
    found = sorted(
        (step, path) for path in folder.glob("checkpoint-*") if (step := step_of(path)) is not None
    )
    whole = None
    for _, path in found:
        if is_whole(path):
            whole = path
        else:
            shutil.rmtree(path, ignore_errors=True)  # of several processes, another may be at it
    return whole


def step_of(checkpoint: Path) -> int | None:
    """Return the optimizer step that a checkpoint was written after; None: it is none."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else None


def note_resumption(folder: Path, step: int) -> tuple[int, ...]:
    """Keep a record of the steps that a run was gone on from; all of them."""
    steps = (*list_resumptions(folder), step)
    (folder / _RESUMPTIONS).write_text(json.dumps(steps), encoding="utf-8")
    return steps


def list_resumptions(folder: Path) -> tuple[int, ...]:
    """Return the steps that the run was gone on from so far."""
    file = folder / _RESUMPTIONS
    return tuple(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else ()
