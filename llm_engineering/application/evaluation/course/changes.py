"""Whether anything has changed since the last run: the tables, the configuration, the code, the embedder."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from llm_engineering.application.evaluation.course.config import CourseAssistant
from llm_engineering.application.files import atomic_write, sha256_of_file

CODE = (".py", ".j2", ".jinja", ".txt", ".npz")


def hash_inputs(parameters: CourseAssistant, code: Iterable[Path], *others: str) -> str | None:
    """Return a hash over all that a run depends on; None where a link is not on this machine, so that only a run can tell.

    Args:
        code: folders whose source files count.
        others: what else counts, such as the embedder and the database.
    """
    digest = hashlib.sha256(parameters.model_dump_json().encode())
    digest.update(json.dumps(others).encode())
    for link in parameters.collect.links:
        if "://" in link.url:
            return None
        place = Path(link.url)
        files = (
            [place] if place.is_file() else sorted(place.rglob("*")) if place.is_dir() else _match(link.url)
        )
        _add_files(digest, (file for file in files if file.is_file()))
    for folder in code:
        _add_files(digest, (file for file in sorted(folder.rglob("*")) if file.suffix in CODE))
    return digest.hexdigest()


def read_last(state: Path) -> dict[str, str]:
    """Return what the last run that succeeded left; nothing where there was none or the file is no JSON object."""
    try:
        found = json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keep_state(state: Path, inputs: str, report: str, at: str) -> None:
    """Note a run that succeeded."""
    state.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(state, json.dumps({"inputs": inputs, "report": report, "at": at}) + "\n")


def _match(pattern: str) -> list[Path]:
    place = Path(pattern)
    return sorted(
        Path(place.anchor or ".").glob(str(place.relative_to(place.anchor) if place.anchor else place))
    )


def _add_files(digest: "hashlib._Hash", files: Iterable[Path]) -> None:
    for file in files:
        digest.update(f"\x00{file}\x00{sha256_of_file(file)}".encode())
