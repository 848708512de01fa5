"""What ZenML's local store holds, read from its file: importing ZenML takes seconds, and opening its store may change it.

The tables are ZenML's own business. They are read for a summary only, never written, and ZenML is pinned exactly.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

_LAST_RUN = "SELECT name, status, created FROM pipeline_run ORDER BY created DESC LIMIT 1"
_VERSIONS = (
    "SELECT model.name, model_version.number, model_version.stage FROM model_version "
    "JOIN model ON model.id = model_version.model_id ORDER BY model.name, model_version.number DESC"
)
_STACK = "SELECT name FROM stack WHERE id = ?"


@dataclass(frozen=True, slots=True)
class StoreSummary:
    """What stands in a ZenML home."""

    server: str | None = None
    """Address of the server that is the active store; then the rest is not known here."""
    stack: str | None = None
    last_run: tuple[str, str, datetime] | None = None
    """Name, status, beginning."""
    models: tuple[tuple[str, int, str], ...] = ()
    """Name, number and stage of each version, the newest of each name first."""


def read_store(home: Path) -> StoreSummary | None:
    """Return a summary of the ZenML home; None where ZenML has not been used yet, or its file cannot be read."""
    try:
        config = yaml.safe_load((home / "config.yaml").read_text(encoding="utf-8")) or {}
        store = config.get("store") or {}
        if store.get("type", "sql") != "sql" or not str(store.get("url", "")).startswith("sqlite"):
            return StoreSummary(server=str(store.get("url", "unknown")).rpartition("@")[2])
        file = Path(str(store.get("database") or home / "local_stores/default_zen_store/zenml.db"))
        # `immutable` would overlook a writer; read-only waits for one, and changes nothing.
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=1)) as opened:
            run = opened.execute(_LAST_RUN).fetchone()
            stack = opened.execute(
                _STACK, (str(config.get("active_stack_id", "")).replace("-", ""),)
            ).fetchone()
            return StoreSummary(
                stack=stack[0] if stack else None,
                last_run=(run[0], run[1], datetime.fromisoformat(str(run[2])).replace(tzinfo=UTC))
                if run
                else None,
                models=tuple(
                    (name, number, stage or "none") for name, number, stage in opened.execute(_VERSIONS)
                ),
            )
    except (OSError, ValueError, AttributeError, yaml.YAMLError, sqlite3.Error):
        return None
