"""Values that steps left behind, as JSON that other programs read."""

import json
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.files import atomic_write


class JsonExport(StrictConfig):
    """Which artifacts are exported, and where to."""

    artifacts: tuple[str, ...] = Field(default=("instruct_samples", "preference_samples"), min_length=1)
    """By name, the newest version of each; NAME:VERSION for another."""
    folder: Path = Path("data/artifacts")


class ExportArtifacts(StrictConfig):
    """Parameters of the pipeline that exports artifacts."""

    export: JsonExport = JsonExport()


def write_json(value: object, file: Path) -> int:
    """Write a value as JSON, whole or not at all.

    Returns:
        How many entries it has; 1 for what is no list and no mapping.

    Raises:
        TypeError: it has a part that JSON cannot say.
    """
    plain = make_plain(value)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, json.dumps(plain, ensure_ascii=False, indent=2) + "\n")
    return len(plain) if isinstance(plain, list | dict) else 1


def make_plain(value: object) -> Any:
    """Return a value in JSON's own types: models as mappings, times as ISO 8601, paths and other texts as text.

    Raises:
        TypeError: there is no such form of it.
    """
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): make_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [make_plain(item) for item in value]
        return sorted(items, key=str) if isinstance(value, set | frozenset) else items
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, str | Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    raise TypeError(f"A {type(value).__name__} has no form in JSON.")
