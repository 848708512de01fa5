"""Services on this machine for development: ``python -m tools.services up | down | status | zenml-up | zenml-down | set-stack``.

A MongoDB-wire server, and ZenML's own server, on loopback only. Exit codes: 0 done (``status``: the MongoDB-wire server
runs), 1 failed, 3 (``status`` only) it does not run.

The MongoDB-wire server is SecantusDB's daemon. It is started as a process of its own (its licence, GPL-2, stays with
it) that outlives the command which started it. Which process is ours is known by its pid, the moment it was started
and its command line together: a pid alone may by now belong to somebody else.
"""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from loguru import logger
from rich.markup import escape

from llm_engineering.domain.errors import MissingDependencyError, StoreUnavailableError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings, load_settings
from tools.console import console, make_parser, run
from tools.processes import STOP_SECONDS, end_process, find_process, wait_until_ended
from tools.warm import WarmTwin

HOST = "127.0.0.1"
START_SECONDS = 30.0
ZENML_SECONDS = 240.0
LOG_TAIL_LINES = 15
NOT_RUNNING = 3
MAX_LOG_BYTES = 5_000_000
_DAEMON = "secantusd-py"


@dataclass(frozen=True, slots=True)
class Status:
    """What is known about a service at this moment."""

    running: bool
    pid: int | None = None
    address: str = ""
    detail: str = ""


class LocalMongo:
    """SecantusDB's daemon with its data under ``data_dir/mongo``.

    Args:
        data_dir: holds the storage (``mongo/``), ``mongo.log`` and ``mongo.pid``.
        port: on 127.0.0.1.
    """

    def __init__(self, data_dir: Path, port: int) -> None:
        self._folder = Path(data_dir).resolve()
        self.port = port
        self.storage = self._folder / "mongo"
        self.log = self._folder / "mongo.log"
        self._pid_file = self._folder / "mongo.pid"

    @property
    def uri(self) -> str:
        return f"mongodb://{HOST}:{self.port}"

    @staticmethod
    def is_installed() -> bool:
        """Whether the daemon is there to be started."""
        return _beside_python(_DAEMON) is not None

    def status(self) -> Status:
        """Return whether our server runs and answers. Changes nothing."""
        process = self._process()
        if process is None:
            return Status(running=False, address=self.uri, detail=describe_taker(self.port) or "not running")
        port = _port_of(process)
        address = f"mongodb://{HOST}:{port}"
        if not _answers(port):
            return Status(
                running=False, pid=process.pid, address=address, detail="started, but does not answer"
            )
        return Status(running=True, pid=process.pid, address=address, detail=f"data in {self.storage}")

    def start(self) -> Status:
        """Start the server unless it runs, and wait until it answers. Safe to call twice, and from two places at once.

        Raises:
            MissingDependencyError: the daemon is not installed.
            StoreUnavailableError: the port is taken; or the server ended or did not answer in time (with its log).
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            process = self._process()
            if process is not None and _port_of(process) != self.port:
                raise StoreUnavailableError(
                    f"The local MongoDB server already runs on port {_port_of(process)} (pid {process.pid}), not on "
                    f"{self.port}. Stop it first: {POE} local-infrastructure-down"
                )
            if process is None:
                self._check_port()
                process = self._spawn()
            self._await_answer(process)
            self._remember(process)
        return self.status()

    def stop(self) -> bool:
        """Stop the server, if it is ours: SIGTERM, then SIGKILL when it does not end in time. True if one was."""
        if not self._folder.is_dir():
            return False
        with self._locked():
            process = self._process()
            if process is not None:
                end_process(process)
            self._pid_file.unlink(missing_ok=True)
        return process is not None

    def kill(self) -> None:
        """End it at once, as a crash would; for tests of what happens then."""
        process = self._process()
        if process is not None:
            process.kill()
            wait_until_ended(process, STOP_SECONDS)

    def _process(self) -> psutil.Process | None:
        """Our server, as the pid file names it, or else the one that listens on the port with our storage."""
        with suppress(OSError, ValueError, KeyError, TypeError, psutil.Error):
            noted = json.loads(self._pid_file.read_text())
            process = find_process(int(noted["pid"]), float(noted["created"]))
            if process is not None and self._is_ours(process):
                return process
        listener = _listener(self.port)
        return listener if listener is not None and self._is_ours(listener) else None

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return process.status() != psutil.STATUS_ZOMBIE and str(self.storage) in process.cmdline()
        return False

    def _check_port(self) -> None:
        taken = describe_taker(self.port)
        if taken:
            raise StoreUnavailableError(
                f"The local MongoDB server cannot start: {taken}. End that program, or choose another port by setting "
                f"LOCAL_MONGO_PORT and, with the same port, DATABASE_URI=mongodb://{HOST}:PORT"
            )

    def _spawn(self) -> psutil.Process:
        self.storage.mkdir(parents=True, exist_ok=True)
        # With a file of its own, the daemon does not go looking for one in the home folder or in /etc.
        config = self._folder / "mongo.toml"
        config.write_text("# Flags given on the command line say everything.\n")
        if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        command = [_daemon(), "--config", str(config), "--host", HOST, "--port", str(self.port)]
        command += ["--storage-path", str(self.storage), "--log-level", "INFO"]
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C in this terminal is not meant for it
            )
        with suppress(psutil.Error):
            process = psutil.Process(child.pid)
            # It is meant to outlive us: without this, Python complains about a child that nobody waited for.
            child.returncode = 0
            self._remember(process)
            return process
        raise StoreUnavailableError(f"The local MongoDB server ended at once.{self._log_tail()}")

    def _await_answer(self, process: psutil.Process) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self.port):
            if not self._is_alive(process):
                self._pid_file.unlink(missing_ok=True)
                raise StoreUnavailableError(
                    f"The local MongoDB server ended while starting.{self._log_tail()}"
                )
            if time.monotonic() > deadline:
                raise StoreUnavailableError(
                    f"The local MongoDB server (pid {process.pid}) did not answer within {START_SECONDS:g} s. "
                    f"Stop it with: {POE} local-infrastructure-down{self._log_tail()}"
                )
            time.sleep(0.1)

    def _is_alive(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    def _remember(self, process: psutil.Process) -> None:
        temporary = self._pid_file.with_suffix(".pid.new")
        temporary.write_text(
            json.dumps({"pid": process.pid, "created": process.create_time(), "port": self.port})
        )
        temporary.replace(self._pid_file)

    def _log_tail(self) -> str:
        with suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            return "\n".join([f"\nThe end of {self.log}:", *(f"  {line}" for line in lines)])
        return ""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One start or stop at a time, over all processes."""
        with (self._folder / "mongo.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class LocalZenml:
    """ZenML's server with its dashboard, by ZenML's own command. Its home: ``ZENML_CONFIG_PATH``."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://{HOST}:{port}"

    def status(self, seconds: float = 2.0) -> Status:
        """Return whether a ZenML server answers on the port within so many seconds."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=seconds) as response:
                healthy = response.status == 200
        except (urllib.error.URLError, OSError):
            healthy = False
        detail = "" if healthy else describe_taker(self.port) or "not running"
        return Status(running=healthy, address=self.url, detail=detail)

    def start(self) -> Status:
        """Start it and make it ZenML's active store. Takes about half a minute.

        Raises:
            StoreUnavailableError: the port is taken, or ZenML failed (with what it said).
        """
        status = self.status()
        if not status.running:
            if taken := describe_taker(self.port):
                raise StoreUnavailableError(
                    f"The ZenML server cannot start: {taken}. End that program, or set LOCAL_ZENML_PORT to another."
                )
            self._zenml("login", "--local", "--port", str(self.port), "--ip-address", HOST)
            self._skip_survey()
        return self.status()

    def stop(self) -> bool:
        """Stop it and go back to ZenML's local store. True if one was running."""
        was_running = self.status().running
        self._zenml("logout", "--local")
        return was_running

    def _skip_survey(self) -> None:
        """Open the dashboard without its sign-up page, which asks for a name and an e-mail address: no account is needed."""
        address = f"{self.url}/api/v1/current-user"
        answer = {"email_opted_in": False, "user_metadata": {"finished_onboarding_survey": True}}
        try:
            with urllib.request.urlopen(address, timeout=5) as response:
                if json.load(response)["body"]["email_opted_in"] is not None:
                    return  # the user has answered, one way or the other
            body, headers = json.dumps(answer).encode(), {"Content-Type": "application/json"}
            request = urllib.request.Request(address, data=body, headers=headers, method="PUT")
            urllib.request.urlopen(request, timeout=5).close()
        except (urllib.error.URLError, OSError, KeyError, ValueError) as error:
            logger.debug("The dashboard's survey could not be skipped: {}", error)

    def _zenml(self, *arguments: str) -> None:
        command = [_beside_python("zenml") or "zenml", *arguments]
        environment = {
            **os.environ,
            "ZENML_AUTO_OPEN_DASHBOARD": "false",
            "AUTO_OPEN_DASHBOARD": "false",
            "ZENML_ANALYTICS_OPT_IN": "false",
        }
        try:
            result = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=ZENML_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StoreUnavailableError(
                f"`zenml {' '.join(arguments)}` did not finish within {ZENML_SECONDS:g} s. Try again; "
                f"{POE} local-zenml-server-down clears what is left of it."
            ) from error
        except FileNotFoundError as error:
            raise MissingDependencyError("zenml", "main", "The ZenML server") from error
        if result.returncode != 0:
            said = "\n".join((result.stdout + result.stderr).strip().splitlines()[-LOG_TAIL_LINES:])
            raise StoreUnavailableError(
                f"`zenml {' '.join(arguments)}` failed (exit code {result.returncode}):\n{said}"
            )


def activate_local_stack() -> str:
    """Make ZenML's default stack (this machine) the active one. Returns a line that says what is active."""
    from zenml.client import Client

    client = Client()
    client.activate_stack("default")
    stack = client.active_stack_model
    parts = ", ".join(f"{kind.value} {found[0].name}" for kind, found in stack.components.items() if found)
    return f"{stack.name} ({parts}); store: {client.zen_store.url}"


def _beside_python(name: str) -> str | None:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else shutil.which(name)


def _daemon() -> str:
    path = _beside_python(_DAEMON)
    if path is None:
        raise MissingDependencyError("secantusdb", "local", "The local MongoDB server")
    return path


def _answers(port: int) -> bool:
    """Whether a server that speaks MongoDB's protocol answers on the port."""
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    client: MongoClient[dict[str, object]] = MongoClient(
        HOST,
        port,
        serverSelectionTimeoutMS=1000,
        connectTimeoutMS=1000,
        socketTimeoutMS=2000,
        directConnection=True,
    )
    try:
        client.admin.command("ping")
    except PyMongoError:
        return False
    finally:
        client.close()
    return True


def _listener(port: int) -> psutil.Process | None:
    """The process that listens on a port, where this user may know it."""
    with suppress(psutil.Error, PermissionError):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid:
                return psutil.Process(connection.pid)
    return None


def describe_taker(port: int) -> str:
    """Say what listens on a port; empty when nothing does."""

    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((HOST, port)) != 0:
            return ""
    process = _listener(port)
    with suppress(psutil.Error):
        if process is not None:
            return f"port {port} is taken by {process.name()} (pid {process.pid})"
    return f"port {port} is taken by another program"


def _port_of(process: psutil.Process) -> int:
    command = process.cmdline()
    return int(command[command.index("--port") + 1])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("local-…", "Services on this machine.")
    actions = parser.add_subparsers(dest="action", required=True)
    for action in ACTIONS:
        actions.add_parser(action, prog=f"{POE} {_TASKS.get(action, f'local-infrastructure-{action}')}")
    options = parser.parse_args(arguments)
    return ACTIONS[options.action](load_settings())


def start_mongo(settings: Settings) -> int:
    mongo = _mongo(settings)
    before = mongo.status()
    if not before.running:
        console.print(f"[dim]… starting the MongoDB-wire server on {mongo.uri}[/]")
    status = mongo.start()
    _print_status("MongoDB", status, "already running" if before.running else "started")
    console.print(f"  [dim]log {escape(str(mongo.log))}; stop it with: {POE} local-infrastructure-down[/]")
    _warn_of_other_database(settings, mongo)
    return 0


def stop_mongo(settings: Settings) -> int:
    if _mongo(settings).stop():
        console.print("[green]●[/] [bold]MongoDB[/] stopped; its data stays")
    else:
        console.print("[dim]○[/] [bold]MongoDB[/] was not running")
    if WarmTwin(settings).stop():
        console.print(f"[green]●[/] [bold]Loaded models[/] of {POE} ask let go")
    return 0


def show_status(settings: Settings) -> int:
    mongo = _mongo(settings)
    current = mongo.status()
    _print_status("MongoDB", current)
    zenml = LocalZenml(settings.local.zenml_port).status()
    _print_status(
        "ZenML server",
        zenml,
        "" if zenml.running else f"optional: {POE} local-zenml-server-up",
    )
    if (note := WarmTwin(settings).read_note()) is not None:
        whose = "of the inference service" if note.service else f"kept for {POE} ask"
        _print_status("Loaded models", Status(running=True, pid=note.pid, detail=whose))
    if not current.running:
        console.print(f"  [dim]start MongoDB with: {POE} local-infrastructure-up[/]")
    _warn_of_other_database(settings, mongo)
    return 0 if current.running else NOT_RUNNING


def start_zenml(settings: Settings) -> int:
    zenml = LocalZenml(settings.local.zenml_port)
    if not zenml.status().running:
        console.print("[dim]… starting the ZenML server (about half a minute)[/]")
    _print_status("ZenML server", zenml.start(), "open this address in a browser")
    console.print(f"  [dim]runs are now stored there; stop it with: {POE} local-zenml-server-down[/]")
    return 0


def stop_zenml(settings: Settings) -> int:
    stopped = LocalZenml(settings.local.zenml_port).stop()
    outcome = "stopped; ZenML is back on its local store" if stopped else "was not running"
    console.print(f"{'[green]●[/]' if stopped else '[dim]○[/]'} [bold]ZenML server[/] {outcome}")
    return 0


def activate_stack(_: Settings) -> int:
    console.print("[dim]… asking ZenML[/]")
    console.print(f"[green]●[/] [bold]Active stack[/] {escape(activate_local_stack())}")
    return 0


ACTIONS: dict[str, Callable[[Settings], int]] = {
    "up": start_mongo,
    "down": stop_mongo,
    "status": show_status,
    "zenml-up": start_zenml,
    "zenml-down": stop_zenml,
    "set-stack": activate_stack,
}


_TASKS = {
    "zenml-up": "local-zenml-server-up",
    "zenml-down": "local-zenml-server-down",
    "set-stack": "set-local-stack",
}


def _mongo(settings: Settings) -> LocalMongo:
    return LocalMongo(settings.local.data_dir, settings.local.mongo_port)


def _print_status(name: str, status: Status, note: str = "") -> None:
    mark = "[green]●[/]" if status.running else "[red]○[/]"
    where = f"[cyan]{escape(status.address)}[/]" if status.running else ""
    pid = f"pid {status.pid}" if status.pid else ""
    words = ", ".join(escape(part) for part in (status.detail, pid, note) if part)
    console.print(f"{mark} [bold]{name}[/] {where} {words}".replace("  ", " "))


def _warn_of_other_database(settings: Settings, mongo: LocalMongo) -> None:
    """Say so when the settings lead elsewhere: starting a server that nobody asks helps nobody."""
    hosts = (
        settings.database.uri.get_secret_value()
        .rpartition("@")[2]
        .removeprefix("mongodb://")
        .partition("/")[0]
    )
    if hosts not in {f"127.0.0.1:{mongo.port}", f"localhost:{mongo.port}"}:
        console.print(
            "[yellow]![/] DATABASE_URI names another server than this one: the pipelines will use that one. "
            f"For this one, set DATABASE_URI={mongo.uri}"
        )


if __name__ == "__main__":
    run(main)
