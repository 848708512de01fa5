"""End what a test process has started and left behind, however it ends: normally, by Ctrl-C, or killed.

A guard is a small process beside each pytest process, xdist's workers included. It holds the reading end of a pipe
whose writing end dies with that process, and then kills everything that inherited the process's mark: an environment
variable, which also reaches servers in sessions of their own and children of processes that are long gone. Guards
themselves bear no mark, so that one which is killed by another guard's run cannot leave its own work undone.

Run as ``python guard.py MARK FOLDER``; removes the temporary folder too.
"""

import os
import select
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

MARK = "TWIN_TESTS_MARK"
WATCH_SECONDS = 1.0
"""Between two looks at the parent: a child that was forked, not started, holds the pipe open beyond its end."""
ROUNDS = 50
"""Looks for marked processes: one that is killed may have started another in the meantime."""


def start_guard(folder: Path) -> None:
    """Mark whatever this process starts from now on, and start its guard. ``folder`` is removed at the end."""
    mark = uuid4().hex
    # The writing end stays open, unknown to children, for as long as this process lives.
    reading, _ = os.pipe()
    unmarked = {name: value for name, value in os.environ.items() if name != MARK}
    guard = subprocess.Popen(
        [sys.executable, __file__, mark, str(folder)],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=unmarked,
        cwd="/",
        start_new_session=True,  # what ends pytest by its terminal must not end the guard
    )
    os.close(reading)
    guard.returncode = 0  # it outlives us: Python need not complain about a child that nobody waited for
    os.environ[MARK] = mark


def _guard(mark: str, folder: str) -> None:
    parent = os.getppid()
    while os.getppid() == parent and not select.select([0], [], [], WATCH_SECONDS)[0]:
        pass
    _kill_marked(mark)
    shutil.rmtree(folder, ignore_errors=True)


def _kill_marked(mark: str) -> None:
    import psutil

    for _ in range(ROUNDS):
        left = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                    # A browser overwrites the environment of its helpers: they are found as children.
                    left += [*process.children(recursive=True), process]
        if not left:
            return
        for process in left:
            with suppress(psutil.Error):
                if __file__ not in process.cmdline():  # a worker's guard has its own work to do
                    process.kill()
        time.sleep(0.1)


if __name__ == "__main__":
    _guard(*sys.argv[1:])
