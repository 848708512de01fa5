"""Says what is here, what is missing, what will be slow, and what to do next: ``./poe doctor [--json] [--quick]``.

It starts nothing, fetches nothing and changes nothing. Exit code 1: something is missing that ``./poe demo`` or ``./poe ask``
needs.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings, load_settings
from tools import checks
from tools.checks import Finding, State, guard_check
from tools.console import console, make_parser, run

_MARKS = {
    State.OK: "[green]ok[/]",
    State.WARN: "[yellow]warn[/]",
    State.MISSING: "[bold red]missing[/]",
    State.OPTIONAL: "[dim]–[/]",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("doctor", __doc__)
    parser.add_argument("--json", action="store_true", help="for a machine to read")
    parser.add_argument("--quick", action="store_true", help="do not measure how fast the models are")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    findings = run_checks(quick=options.quick)
    if options.json:
        found = [{**asdict(finding), "stops": finding.stops} for finding in findings]
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        show_findings(findings, time.perf_counter() - started, f'{POE} ask "What did I write about?"')
    return 1 if any(finding.stops for finding in findings) else 0


def run_checks(*, quick: bool = False) -> list[Finding]:
    """Return what all checks find, in the order of the screen."""
    try:
        settings = load_settings()
    except ConfigurationError as error:
        wrong = Finding("Settings", ".env", State.MISSING, str(error), "mend these", required=True)
        return [
            wrong,
            *guard_check("Machine", lambda: checks.check_machine(checks.ROOT)),
            *guard_check("Installed", checks.check_packages),
        ]
    start_logging(settings.model_copy(update={"log": settings.log.model_copy(update={"level": "ERROR"})}))
    findings = [
        *guard_check("Machine", lambda: checks.check_machine(settings.local.data_dir)),
        *guard_check("Installed", checks.check_packages),
        *guard_check("Models", lambda: checks.check_models(settings)),
        *guard_check("Services", lambda: checks.check_services(settings)),
    ]
    with open_resources(_impatient(settings)) as resources:
        findings += guard_check("Data", lambda: checks.check_collection(resources))
        findings += guard_check("Data", lambda: checks.check_index(resources))
        findings += guard_check("Training", checks.check_training)
        findings += guard_check("Optional", lambda: checks.check_optional(resources))
        if not quick and not any(finding.stops for finding in findings):
            from tools.speed import measure_speed

            findings += guard_check("Speed", lambda: measure_speed(resources))
    return findings


def _impatient(settings: Settings) -> Settings:
    """Settings under which a database that is not there is told in a second."""
    database = settings.database.model_copy(update={"timeout_seconds": checks.SECONDS})
    return settings.model_copy(update={"database": database})


def show_findings(findings: Sequence[Finding], seconds: float, otherwise: str) -> None:
    """Print findings by section, and the one thing to do first; ``otherwise``: what to do where nothing is missing."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(justify="right", min_width=7)
    table.add_column(style="bold", no_wrap=True, max_width=18)
    table.add_column(overflow="fold")
    section = ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            table.add_row("", f"[cyan]{section}[/]", "")
        detail = escape(finding.detail)
        if finding.state is State.OPTIONAL:
            detail = f"[dim]{detail}[/]"
        if finding.todo:
            detail += f" [dim]→[/] {escape(finding.todo)}"
        table.add_row(_MARKS[finding.state], escape(finding.name), detail)
    console.print(table)
    counts = {state: sum(finding.state is state for finding in findings) for state in State}
    console.print(
        f"\n{counts[State.OK]} ok, {counts[State.WARN]} warn, {counts[State.MISSING]} missing, "
        f"{counts[State.OPTIONAL]} optional; {seconds:.1f} s. [bold]Next:[/] {escape(find_next(findings) or otherwise)}",
        soft_wrap=True,
    )


def find_next(findings: Sequence[Finding]) -> str:
    """Return the one thing to do first; empty where nothing is missing."""
    for state in (State.MISSING, State.WARN):
        for finding in findings:
            if finding.state is state and finding.todo and finding.section != "Speed":
                return finding.todo
    return ""


if __name__ == "__main__":
    run(main)
