"""What the benchmarks share: options, checks against targets, tables, timing, and a MongoDB-wire server of their own."""

import os
import platform
import resource
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeVar

import psutil
from rich.console import Console
from rich.table import Table

from llm_engineering.infrastructure.stores.mongo import MongoWarehouse
from tools.services import LocalMongo

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("zenml", "pymongo", "secantusdb", "qdrant-edge-py", "onnxruntime", "tokenizers", "numpy")
"""Those whose versions decide the numbers."""

console = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Check:
    """A measured number beside what it should be."""

    what: str
    measured: float
    target: float
    bound: Literal["at least", "at most", "exactly"]
    unit: str = ""

    @property
    def met(self) -> bool:
        if self.bound == "exactly":
            return self.measured == self.target
        return self.measured >= self.target if self.bound == "at least" else self.measured <= self.target

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        return {**asdict(self), "met": self.met}


def show_checks(title: str, checks: Sequence[dict[str, Any]]) -> None:
    """A table of :meth:`Check.as_dict` values: target, measured, met."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("what", overflow="fold")
    for heading in ("target", "measured", "met"):
        table.add_column(heading, justify="right")
    for check in checks:
        bound = {"at least": "≥ ", "at most": "≤ ", "exactly": ""}[check["bound"]]
        met = "[green]yes[/]" if check["met"] else "[red]no[/]"
        unit = check["unit"]
        table.add_row(
            check["what"],
            f"{bound}{number(check['target'])}{unit}",
            f"{number(check['measured'])}{unit}",
            met,
        )
    console.print(table)


def number(value: float) -> str:
    """Three digits that matter, and no more."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def timed(action: Callable[[], T]) -> tuple[T, float]:
    """What the action returns, and its seconds."""
    start = perf_counter()
    result = action()
    return result, perf_counter() - start


def peak_mb() -> float:
    """The most memory of this process so far, all of it, mapped files included."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: on Linux a child begins with the peak of the process that started it.
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # macOS counts bytes


def machine() -> dict[str, Any]:
    """The facts a number means nothing without."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": _git("rev-parse", "--short", "HEAD"),
        "changed_files": len(_git("status", "--porcelain", "--untracked-files=no").splitlines()),
    }


def load() -> float:
    """Processes that wanted a core in the last minute: above the number of cores, other work was in the way."""
    return round(os.getloadavg()[0], 2)


@contextmanager
def mongo_server(uri: str | None = None) -> Iterator[str]:
    """URI of a MongoDB: the one given, or a local server on a free port with its data in a temporary folder."""
    if uri is not None:
        yield uri
        return
    with tempfile.TemporaryDirectory(prefix="twin-benchmark-") as folder:
        server = LocalMongo(Path(folder), _free_port())
        server.start()
        try:
            yield server.uri
        finally:
            server.stop()


@contextmanager
def new_warehouse(uri: str) -> Iterator[MongoWarehouse]:
    """A warehouse in a database of its own, which is dropped at the end."""
    from pymongo import MongoClient

    name = f"benchmark_{uuid.uuid4().hex[:8]}"
    # A busy machine may take its time to answer; that is measured, not an error.
    warehouse = MongoWarehouse(uri, name, timeout_seconds=30)
    try:
        yield warehouse
    finally:
        warehouse.close()
        with MongoClient[dict[str, Any]](uri) as client:
            client.drop_database(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        for line in cpus.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # an unpacked archive, or no git: the numbers stand without it
    return result.stdout.strip()
