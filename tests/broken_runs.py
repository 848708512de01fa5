"""Runs of our commands in processes of their own, in which something breaks at a call that the test names.

The product knows nothing of this: the call is wrapped in the child, before the command starts. Children are forked from
a server that has imported ZenML and what else is slow once, so that each starts in milliseconds instead of seconds.
"""

import functools
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 120
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    "pipelines zenml.zen_stores.sql_zen_store trafilatura pymongo selenium.webdriver onnxruntime qdrant_edge".split()
)


@dataclass(frozen=True)
class Fault:
    """What happens at the ``nth`` call of ``call`` (``package.module:Class.method``): before it is made, or right after."""

    call: str
    strike: Callable[[], object]
    nth: int = 1
    after: bool = False

    def __str__(self) -> str:
        return f"{self.call.rpartition(':')[2]}-{self.nth}-{'after' if self.after else 'before'}"


@dataclass(frozen=True)
class Ended:
    """How a command ended. ``code`` is negative where a signal ended it."""

    code: int
    output: str
    """Standard output and standard error, as on a terminal."""


def die() -> None:
    """What the kernel does to a process when memory runs out, or a person with ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill(pid: int) -> None:
    """Kill another process, and wait until it is gone."""
    import psutil

    process = psutil.Process(pid)
    process.kill()
    # It stays a zombie for as long as its parent, the test, does not ask how it ended.
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)


def run_command(
    module: str, *arguments: str, output: Path, environment: Mapping[str, str], fault: Fault | None = None
) -> Ended:
    """Run ``python -m MODULE ARGUMENTS`` in the current folder and wait for its end."""
    process = _processes.Process(
        target=_child,
        args=(module, arguments, output, {**os.environ, **environment, "COLUMNS": "300"}, Path.cwd(), fault),
    )
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"{module} did not end within {SECONDS} s:\n{output.read_text()}")
    code, said = process.exitcode, output.read_text(encoding="utf-8", errors="replace")
    process.close()
    return Ended(code, said)


def _child(
    module: str,
    arguments: Sequence[str],
    output: Path,
    environment: Mapping[str, str],
    folder: Path,
    fault: Fault | None,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - it ends with the process
    from tools.console import run

    command = importlib.import_module(module)
    sys.modules["__main__"].__file__ = command.__file__  # as with `python -m`; ZenML asks for it
    _skip_package_listing()
    # As poe's tasks set it; ZenML has read the variable when it was imported.
    logging.root.setLevel(environment.get("ZENML_LOGGING_VERBOSITY", "CRITICAL"))
    if fault:
        _arm(fault)
    run(functools.partial(command.main, list(arguments)))


def _skip_package_listing() -> None:
    """ZenML notes the installed packages by running pip, twice a run: the longest part of a small run."""
    from zenml.environment import Environment

    Environment.get_python_packages = staticmethod(list)  # type: ignore[assignment]


def _arm(fault: Fault) -> None:
    module, _, path = fault.call.partition(":")
    *owners, name = path.split(".")
    owner: Any = functools.reduce(getattr, owners, importlib.import_module(module))
    original = getattr(owner, name)
    calls = 0

    @functools.wraps(original)
    def faulty(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != fault.nth:
            return original(*args, **kwargs)
        if not fault.after:
            fault.strike()
        result = original(*args, **kwargs)
        if fault.after:
            fault.strike()
        return result

    setattr(owner, name, faulty)
