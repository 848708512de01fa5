"""Runs of pipelines for ``POST /pipelines/{name}/runs``: each a process of its own, with a configuration of the operator's.

What a caller sends is a name, and values that are checked against the pipeline's parameters; it never names a file, an address or
a command. A lock that the run's process holds keeps a second run of the same pipeline away, and tells whether it still runs,
whichever process of this machine asks; the service may stop meanwhile.
"""

import fcntl
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from llm_engineering.bootstrap.logging import mask_secrets
from llm_engineering.domain.errors import ConfigurationError, RunUnderWayError
from llm_engineering.domain.pipeline_runs import PipelineRun, RunState
from llm_engineering.settings import Settings, load_settings
from tools.run import PIPELINES, run_task
from tools.run_config import check_parameters, read_run_config

KEPT = 100
"""Records of runs that are kept."""
MOST_CAUSE_CHARACTERS = 1_000
_PLAIN = re.compile(r"\w[\w ,-]*")
"""A word or a name; what could be a path, an address or a variable is none."""
_SOURCES = frozenset({"links", "routes"})
_STATES: Mapping[str, RunState] = {"completed": "succeeded", "cached": "succeeded", "failed": "failed"}


class PipelineRuns:
    """The pipelines of this installation.

    Args:
        folder: where records and logs of runs go.
        configs: the operator's configurations.
        python: the interpreter that runs them.
    """

    def __init__(self, folder: Path, configs: Path = Path("configs"), python: str = sys.executable) -> None:
        self._folder, self._configs, self._python = folder, configs, python
        self._turn = threading.Lock()

    @property
    def pipelines(self) -> Sequence[str]:
        """See the port."""
        return sorted(PIPELINES)

    def list_configs(self) -> Sequence[str]:
        """See the port."""
        return sorted(file.stem for file in self._configs.glob("*.yaml") if file.is_file())

    def start(
        self, pipeline: str, config: str, overrides: Mapping[str, Any], started_by: str | None
    ) -> PipelineRun:
        """See the port."""
        chosen = self._read(pipeline, config, overrides)
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._turn, self._lock_file(pipeline).open("a+") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunUnderWayError(
                    f"{pipeline} runs already, and one run of it goes on at a time. Ask for this again when it has ended."
                ) from None
            started = PipelineRun(
                id=uuid.uuid4().hex,
                pipeline=pipeline,
                config=config,
                started_by=started_by,
                started_at=datetime.now(UTC),
            )
            self._forget_old()
            self._place(started.id, "yaml").write_text(yaml.safe_dump(chosen), encoding="utf-8")
            _write(self._place(started.id, "json"), started)
            held.truncate(0)
            held.write(started.id)
            held.flush()
            with self._place(started.id, "log").open("wb") as log:
                process = subprocess.Popen(
                    [self._python, "-m", "tools.pipeline_runs", str(self._place(started.id, "json"))],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[held.fileno()],  # the lock lives as long as the process does
                    start_new_session=True,  # Ctrl-C at the service is not meant for it
                )
        threading.Thread(target=process.wait, daemon=True).start()
        return started

    def find(self, pipeline: str, identifier: str) -> PipelineRun | None:
        """See the port."""
        with self._turn:  # looking at the lock takes it for a moment
            running = self._find_running(pipeline)
        try:
            found = PipelineRun.model_validate_json(self._place(identifier, "json").read_bytes())
        except (OSError, ValueError):
            return None
        if found.pipeline != pipeline:
            return None
        if (
            running == identifier
        ):  # even if its end stands there: until the process is gone, no other can begin
            return found.model_copy(update={"state": "running", "ended_at": None, "cause": ""})
        if found.state == "running":
            cause = "Its process was ended before the run was over."
            return found.model_copy(update={"state": "failed", "cause": cause})
        return found

    def _read(self, pipeline: str, config: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration's content with the overrides in it, checked."""
        file, model = self._configs / f"{config}.yaml", PIPELINES[pipeline].parameters
        _, rest = read_run_config(file, model)
        content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        merged = merge_values(content.get("parameters") or {}, overrides)
        checked = check_parameters(merged, model, file).model_dump()
        for where, value in list_leaves(overrides):
            if _names_place(where, value, checked):
                raise ConfigurationError(
                    f"parameters.{'.'.join(where)}: where a run reads and writes stands in its configuration, and cannot be "
                    f"chosen over HTTP. Put a file with this value into {self._configs}."
                )
        return {**rest, "parameters": merged}

    def _find_running(self, pipeline: str) -> str | None:
        try:
            with self._lock_file(pipeline).open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return file.read().strip()
        except FileNotFoundError:
            pass
        return None

    def _lock_file(self, pipeline: str) -> Path:
        return self._folder / f"{pipeline}.lock"

    def _place(self, identifier: str, ending: str) -> Path:
        return self._folder / f"{identifier}.{ending}"

    def _forget_old(self) -> None:
        for record in sorted(self._folder.glob("*.json"), key=lambda one: -one.stat().st_mtime)[KEPT - 1 :]:
            for ending in ("yaml", "log", "json"):
                record.with_suffix(f".{ending}").unlink(missing_ok=True)


def merge_values(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with others in place of some; mappings are merged, all else is replaced."""
    merged = dict(values)
    for name, value in overrides.items():
        there = merged.get(name)
        if isinstance(there, Mapping) and isinstance(value, Mapping):
            value = merge_values(there, value)
        merged[name] = value
    return merged


def list_leaves(value: object, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield each value of nested mappings and lists, with the keys and numbers that lead to it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from list_leaves(inner, (*where, str(name)))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from list_leaves(inner, (*where, str(number)))
    else:
        yield where, value


def _names_place(where: tuple[str, ...], value: object, checked: Any) -> bool:
    for part in where:
        if part in _SOURCES:
            return True
        with suppress(KeyError, IndexError, ValueError, TypeError):
            checked = checked[part] if isinstance(checked, Mapping) else checked[int(part)]
    return isinstance(checked, Path) or (isinstance(value, str) and not _PLAIN.fullmatch(value))


def _write(file: Path, found: PipelineRun) -> None:
    written = file.with_suffix(".new")
    written.write_text(found.model_dump_json(), encoding="utf-8")
    written.replace(file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what a record says, and write into it how that ended."""
    record = Path((sys.argv[1:] if arguments is None else arguments)[0])
    asked = PipelineRun.model_validate_json(record.read_bytes())
    try:
        result = run_task([asked.pipeline, "--config", str(record.with_suffix(".yaml"))])
    except Exception as error:
        _finish(record, asked, "failed", cause=f"{type(error).__name__}: {error}")
        raise
    _finish(record, asked, _STATES.get(str(result.status.value), "submitted"), name=result.name)
    return 0


def _finish(
    record: Path, asked: PipelineRun, state: RunState, *, name: str | None = None, cause: str = ""
) -> None:
    settings: Settings | None = None
    with suppress(ConfigurationError):
        settings = load_settings()
    told = mask_secrets(cause, settings) if settings is not None else cause.partition(":")[0]
    update = {
        "state": state,
        "ended_at": datetime.now(UTC),
        "name": name,
        "cause": told[:MOST_CAUSE_CHARACTERS],
    }
    _write(record, asked.model_copy(update=update))


if __name__ == "__main__":
    sys.exit(main())
