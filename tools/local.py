"""Services on this machine: ``python -m tools.local up | down | status | zenml-up | zenml-down | set-stack``.

Exit codes: 0 done (``status``: the MongoDB-wire server runs), 1 failed, 3 (``status`` only) it does not run.
"""

import argparse
from collections.abc import Callable, Sequence

from rich.markup import escape

from llm_engineering.settings import Settings, load_settings
from tools.console import console, run
from tools.services import LocalMongo, LocalZenml, Status, activate_local_stack

NOT_RUNNING = 3


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.local", description="Services on this machine.")
    parser.add_argument("action", choices=sorted(ACTIONS))
    options = parser.parse_args(arguments)
    return ACTIONS[options.action](load_settings())


def up(settings: Settings) -> int:
    mongo = _mongo(settings)
    before = mongo.status()
    if not before.running:
        console.print(f"[dim]… starting the MongoDB-wire server on {mongo.uri}[/]")
    status = mongo.start()
    _line("MongoDB", status, "already running" if before.running else "started")
    console.print(f"  [dim]log {escape(str(mongo.log))}; stop it with: poe local-infrastructure-down[/]")
    _warn_of_other_database(settings, mongo)
    return 0


def down(settings: Settings) -> int:
    if _mongo(settings).stop():
        console.print("[green]●[/] [bold]MongoDB[/] stopped; its data stays")
    else:
        console.print("[dim]○[/] [bold]MongoDB[/] was not running")
    return 0


def status(settings: Settings) -> int:
    mongo = _mongo(settings)
    current = mongo.status()
    _line("MongoDB", current)
    zenml = LocalZenml(settings.local.zenml_port).status()
    _line(
        "ZenML server",
        zenml,
        "" if zenml.running else "optional: poe local-zenml-server-up",
    )
    if not current.running:
        console.print("  [dim]start MongoDB with: poe local-infrastructure-up[/]")
    _warn_of_other_database(settings, mongo)
    return 0 if current.running else NOT_RUNNING


def zenml_up(settings: Settings) -> int:
    zenml = LocalZenml(settings.local.zenml_port)
    if not zenml.status().running:
        console.print("[dim]… starting the ZenML server (about half a minute)[/]")
    _line("ZenML server", zenml.start(), "open this address in a browser")
    console.print("  [dim]runs are now stored there; stop it with: poe local-zenml-server-down[/]")
    return 0


def zenml_down(settings: Settings) -> int:
    stopped = LocalZenml(settings.local.zenml_port).stop()
    console.print(f"{'[green]●[/]' if stopped else '[dim]○[/]'} [bold]ZenML server[/] {_stopped(stopped)}")
    return 0


def set_stack(_: Settings) -> int:
    console.print("[dim]… asking ZenML[/]")
    console.print(f"[green]●[/] [bold]Active stack[/] {escape(activate_local_stack())}")
    return 0


ACTIONS: dict[str, Callable[[Settings], int]] = {
    "up": up,
    "down": down,
    "status": status,
    "zenml-up": zenml_up,
    "zenml-down": zenml_down,
    "set-stack": set_stack,
}


def _mongo(settings: Settings) -> LocalMongo:
    return LocalMongo(settings.local.data_dir, settings.local.mongo_port)


def _line(name: str, status: Status, note: str = "") -> None:
    mark = "[green]●[/]" if status.running else "[red]○[/]"
    where = f"[cyan]{escape(status.address)}[/]" if status.running else ""
    pid = f"pid {status.pid}" if status.pid else ""
    words = ", ".join(escape(part) for part in (status.detail, pid, note) if part)
    console.print(f"{mark} [bold]{name}[/] {where} {words}".replace("  ", " "))


def _stopped(stopped: bool) -> str:
    return "stopped; ZenML is back on its local store" if stopped else "was not running"


def _warn_of_other_database(settings: Settings, mongo: LocalMongo) -> None:
    """Say so when the settings lead elsewhere: starting a server that nobody asks helps nobody."""
    hosts = (
        settings.database.host.get_secret_value()
        .rpartition("@")[2]
        .removeprefix("mongodb://")
        .partition("/")[0]
    )
    if hosts not in {f"127.0.0.1:{mongo.port}", f"localhost:{mongo.port}"}:
        console.print(
            "[yellow]![/] DATABASE_HOST names another server than this one: the pipelines will use that one. "
            f"For this one, set DATABASE_HOST={mongo.uri}"
        )


if __name__ == "__main__":
    run(main)
