"""Processes that outlive the command which started them: known again, and ended."""

import signal
import time
from contextlib import suppress

import psutil

STOP_SECONDS = 15.0


def find_process(pid: int, created: float) -> psutil.Process | None:
    """Return the process that had this pid at this moment of creation; None where it has ended, whoever has the pid now."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 1.0
        if same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def end_process(process: psutil.Process) -> None:
    """End a process: SIGTERM, then SIGKILL when it does not end in time."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
        if not wait_until_ended(process, STOP_SECONDS):
            process.kill()
            wait_until_ended(process, STOP_SECONDS)


def wait_until_ended(process: psutil.Process, seconds: float) -> bool:
    """Wait for the end of a process; False if it did not come in time.

    A process that ended is a zombie until its parent asks how. In a container whose first process asks nobody that is
    for ever, so psutil's own wait, which wants it gone, would last its full time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            process.wait(0)  # collects it, where it is our child
        except psutil.TimeoutExpired:
            with suppress(psutil.NoSuchProcess):
                if process.status() == psutil.STATUS_ZOMBIE:
                    return True
            time.sleep(0.02)
        else:
            return True
    return False
