"""API keys of the inference service: ``./poe create-api-key NAME``, ``./poe list-api-keys``, ``./poe revoke-api-key NAME``."""

from collections.abc import Sequence
from typing import get_args

from rich.markup import escape
from rich.table import Table

from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.service import open_api_keys
from llm_engineering.domain.api_keys import KeyScope
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings, load_settings
from tools.console import console, errors, make_parser, run, show_table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("…-api-key", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (
        ("create", "Make a key and show it once."),
        ("revoke", "Make a key useless, and end what runs with it."),
    ):
        command = commands.add_parser(name, prog=f"{POE} {name}-api-key", description=about)
        command.add_argument("name", nargs="+", metavar="NAME", help="who or what uses it")
        if name == "create":
            command.add_argument(
                "--documents", action="store_true", help="who has it may also add files to the collection"
            )
            command.add_argument("--reports", action="store_true", help="who has it may also read reports")
            command.add_argument(
                "--pipelines", action="store_true", help="who has it may also start pipelines"
            )
    commands.add_parser("list", prog=f"{POE} list-api-keys", description="Show the names of all keys.")
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    if options.command == "create":
        scopes = tuple(scope for scope in get_args(KeyScope) if getattr(options, scope))
        create(make_name(options.name), settings, scopes)
    elif options.command == "revoke":
        revoke(make_name(options.name), settings)
    else:
        show(settings)
    return 0


def make_name(words: Sequence[str]) -> str:
    """Return a key's name; spaces become hyphens, since names stand in logs and metrics."""
    return "-".join(" ".join(words).split())


def create(name: str, settings: Settings, scopes: tuple[KeyScope, ...] = ()) -> None:
    """Make a key. The key alone goes to standard output, so that a script can take it from there.

    Args:
        scopes: what it allows beyond asking.
    """
    with open_api_keys(settings) as store:
        secret = store.create(name, scopes)
    errors.print(
        f"[green]✓[/] Key [bold]{escape(name)}[/]. It is shown this once and kept nowhere; put it where its user keeps "
        "secrets:"
    )
    console.print(secret, markup=False, soft_wrap=True)
    errors.print(
        "[dim]Send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'; "
        f"for {POE} call-inference-ml-service, set SERVICE_API_KEY. Running services know it already.[/]"
    )


def revoke(name: str, settings: Settings) -> None:
    """Remove a key."""
    with open_api_keys(settings) as store:
        store.revoke(name)
    console.print(
        f"[green]✓[/] Key [bold]{escape(name)}[/] is revoked: running services refuse it from now on."
    )


def show(settings: Settings) -> None:
    """List names and dates; the keys themselves are not known any more."""
    with open_api_keys(settings) as store:
        place, keys = store.place, store.read_keys().keys
    if not keys:
        console.print(f"There are no API keys in {escape(place)}. Make one: {POE} create-api-key NAME")
        return
    table = Table("Name", "Made (UTC)", "Also allows", "SHA-256", box=None, pad_edge=False)
    for key in keys:
        made = f"{key.created_at:%Y-%m-%d %H:%M}"
        table.add_row(escape(key.name), made, ", ".join(key.scopes), f"[dim]{key.sha256[:12]}…[/]")
    show_table(table)


if __name__ == "__main__":
    run(main)
