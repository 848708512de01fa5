"""Running git: no prompts, no hooks, no helpers, a time limit, and secrets only in its environment."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llm_engineering.domain.errors import CollectionError

# How git reaches servers is kept; other variables (GIT_DIR inside a hook, say) would change what it works on.
_KEPT = ("GIT_SSH", "GIT_SSL", "GIT_PROXY", "GIT_HTTP_PROXY")
_WATCH_SECONDS = 0.2
MAX_OUTPUT_BYTES = 64_000_000
"""Of one command: the names of half a million files."""

SETTINGS: Mapping[str, str] = {
    "credential.helper": "",
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.askPass": "",
    "protocol.allow": "never",
    "protocol.https.allow": "always",
    "protocol.http.allow": "always",
    "protocol.ssh.allow": "always",
    "protocol.git.allow": "always",
    "protocol.file.allow": "always",
    "submodule.recurse": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.followRedirects": "false",  # git would take its authorization along; the reader follows and drops it
    "http.lowSpeedLimit": "100",
    "http.lowSpeedTime": "60",
}


def git_environment(secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a git process; ``secrets`` are settings such as ``http.https://host/.extraHeader``.

    Settings go through ``GIT_CONFIG_COUNT`` (git 2.31 and later) because everybody on a machine can read command lines.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith(_KEPT)}
    settings = {**SETTINGS, **secrets}
    clean["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (key, value) in enumerate(settings.items()):
        clean[f"GIT_CONFIG_KEY_{number}"], clean[f"GIT_CONFIG_VALUE_{number}"] = key, value
    # Messages are matched in English; a question would wait for an answer that nobody gives.
    clean |= {
        "LC_ALL": "C",
        "LANGUAGE": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "GIT_OPTIONAL_LOCKS": "0",
    }
    clean.setdefault("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=15")
    return clean


@asynccontextmanager
async def run_git(
    arguments: Sequence[str], environ: Mapping[str, str], *, stdin: int = asyncio.subprocess.DEVNULL
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run git in a process group of its own, which is gone when the block ends, however it ends.

    Raises:
        CollectionError: git is not installed.
    """
    git = shutil.which("git")
    if git is None:
        raise CollectionError(
            "The program 'git' is not installed, which repositories need. Install it (Debian: apt-get install git; "
            "macOS: xcode-select --install)."
        )
    process = await asyncio.create_subprocess_exec(
        git,
        *arguments,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environ),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # The helper that talks to the server is git's child: ending git alone would leave it downloading.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdin is not None:
            process.stdin.close()
        # Drained, because a process counts as ended only when its pipes are closed too.
        for stream in (process.stdout, process.stderr):
            while stream is not None and await stream.read(65_536):
                pass
        await process.wait()


class TooLargeError(Exception):
    """The folder grew beyond the limit."""


async def finish(
    process: asyncio.subprocess.Process, folder: Path, max_bytes: int
) -> tuple[int, bytes, bytes]:
    """Wait for a process that writes into ``folder``: (exit status, output, last 8 KiB of its messages).

    Raises:
        TooLargeError: the folder holds more than ``max_bytes``, or the output is longer than any honest one.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    output = asyncio.create_task(_all(process.stdout))
    messages = asyncio.create_task(_tail(process.stderr))
    status = asyncio.create_task(process.wait())
    tasks = (output, messages, status)
    try:
        pending: set[asyncio.Task[Any]] = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, timeout=_WATCH_SECONDS, return_when="FIRST_COMPLETED")
            for task in done:
                task.result()
            if await asyncio.to_thread(folder_bytes, folder) > max_bytes:
                raise TooLargeError
        return status.result(), output.result(), messages.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _all(stream: asyncio.StreamReader) -> bytes:
    # A tree may hold another a thousand times, and that one a third: a few kilobytes list billions of files.
    read = bytearray()
    while piece := await stream.read(65_536):
        read += piece
        if len(read) > MAX_OUTPUT_BYTES:
            raise TooLargeError
    return bytes(read)


async def _tail(stream: asyncio.StreamReader, keep: int = 8_192) -> bytes:
    kept = b""
    while piece := await stream.read(4_096):
        kept = (kept + piece)[-keep:]
    return kept


def folder_bytes(folder: Path) -> int:
    """Return bytes of all files under a folder; files that vanish meanwhile do not count."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(root, name).lstat().st_size
    return total
