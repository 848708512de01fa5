"""Print the reports of a finished run's steps on the console."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.files import atomic_write
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings, load_settings
from tools.console import console, readable_source, show_table

SHOWN_REASONS = 10
"""Reasons that are listed for what was left out."""


def show_run(result: Any) -> None:
    """Print the reports of a finished run's steps, and where their pages are."""
    if result is None or not result.status.is_successful:
        return
    show_steps(result)
    console.print(
        f"[green]✓[/] {escape(result.name)} finished. [dim]Dashboard: {POE} local-zenml-server-up[/]",
        soft_wrap=True,
    )


def show_steps(result: Any) -> None:
    """Print the reports of those steps of a run that have come to their end."""
    for name, step in result.steps.items():
        for output in step.outputs.values():
            for artifact in output:
                if shown := _SHOWN.get(artifact.name):
                    shown(name, artifact.load())
                elif label := _PAGES.get(artifact.name):
                    page = write_page(load_settings(), f"{result.name}-{artifact.name}", str(artifact.load()))
                    console.print(f"  [bold]{label}[/]: {page}")


def write_page(settings: Settings, name: str, html: str) -> Path:
    """Write a report's page beside the other stores, where any browser opens it; returns its file."""
    folder = settings.local.data_dir / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.html"
    atomic_write(file, html)
    return file


def read_output(result: Any, name: str) -> dict[str, Any]:
    """Return what the last step of a finished run that has such an output says in it; empty: none has."""
    found: dict[str, Any] = {}
    for step in result.steps.values():
        for artifact in step.outputs.get(name, []):
            found = artifact.load()
    return found


def _show_links(_: str, report: dict[str, Any]) -> None:
    """Show the links that the user gave, each whole, with what it led to; links found through a feed only where they failed."""
    console.print("[bold]Links[/]")
    for url, outcome in report["outcomes"].items():
        reason = report["failures"].get(url)
        if outcome["found_through"] and not reason:
            continue
        status = outcome["status"]
        told = [
            f"{outcome['reader']}",
            f"{outcome['documents']:,} documents",
            *([f"{outcome['discovered']:,} links in it"] if outcome["discovered"] else []),
            *([f"{outcome['rejected']:,} left out"] if outcome.get("rejected") else []),
            f"{outcome['seconds']:.1f} s",
        ]
        console.print(f"  [{_STYLES[status]}]{status}[/] {escape(url)}")
        console.print(f"    [dim]{escape(' · '.join(told))}[/]")
        if reason:
            console.print(f"    [red]{escape(reason)}[/]")
    _show_left_out(report.get("rejections", {}), report.get("records_rejected", 0))


def _show_left_out(reasons: dict[str, str], count: int) -> None:
    """Show why records were left out, as far as there is room, and where all reasons stand."""
    if not count:
        return
    console.print(f"[bold]Left out[/]: {count:,}")
    for source, reason in list(reasons.items())[:SHOWN_REASONS]:
        console.print(f"  {escape(readable_source(source))}")
        console.print(f"    [yellow]{escape(reason)}[/]")
    console.print(f"  [dim]All of them, with reasons: {POE} rejected[/]")


def _show_numbers(step: str, report: dict[str, Any]) -> None:
    """Show what a step counted; zeros and times are left to the dashboard."""
    counts = [f"{value:,} {key.replace('_', ' ')}" for key, value in report.items() if _is_count(value)]
    console.print(
        f"  [bold]{step.replace('_', ' ')}[/]: {', '.join(counts) or 'nothing to do'}", soft_wrap=True
    )


def _show_generation(step: str, report: dict[str, Any]) -> None:
    """Show what was made, what it cost, and why it ended early where it did."""
    _show_numbers(step, report)
    for what, times in report["what_happened"].items():
        console.print(f"    [dim]{times:,} {escape(what)}[/]", soft_wrap=True)
    if report.get("malformed_replies"):
        console.print(f"    [yellow]{report['malformed_share']:.0%} of the replies could not be used[/]")
    if report.get("cost_usd") is not None:
        console.print(f"    Cost: {report['cost_usd']:.4f} US dollars")
    if report.get("stopped"):
        console.print(f"  [yellow]{escape(report['stopped'])}[/]", soft_wrap=True)


def _show_dataset(step: str, report: dict[str, Any]) -> None:
    _show_numbers(step, report)
    for gate, dropped in report["dropped_by_gate"].items():
        console.print(f"    [dim]{dropped:,} dropped: {escape(gate.replace('_', ' '))}[/]", soft_wrap=True)
    console.print(f"  [bold]Data set[/]: {escape(report['folder'])}", soft_wrap=True)
    console.print(f"  [bold]Report[/]: {escape(report['folder'])}/report.html", soft_wrap=True)


def _show_rag_evaluation(_: str, found: dict[str, Any]) -> None:
    """Show the table of all configurations, the recommended one, and the abstention threshold."""
    show_table(_make_rag_table(found, whole=True), _make_rag_table(found, whole=False))
    chosen = found["recommendation"]["name"]
    recommendation = found["recommendation"]
    lines = [f"  [bold]Recommended[/]: {escape(chosen)}. {escape(recommendation['reason'])}"]
    if found["calibration"]:
        best = found["calibration"]["best"]
        lines.append(
            f"  [bold]Abstention threshold[/] {best['threshold']:.3f}: answers {best['answered_share']:.0%} of answerable "
            f"questions, abstains on {best['declined_share']:.0%} of unanswerable ones; {best['risk']:.0%} of its "
            "answers are wrong."
        )
    if found["answers"]:
        lines.append(f"  [bold]Answers[/]: {', '.join(_shares(found['answers']))}")
    if found["judged"]:
        judged = found["judged"]["metrics"].items()
        scores = (
            f"{name.replace('_', ' ')} {_share(m['mean'])} ({m['missing']} missing)" for name, m in judged
        )
        lines.append(f"  [bold]Judged by {escape(found['judged']['judge'])}[/]: {', '.join(scores)}")
    if found["stale"]:
        lines.append(
            f"  [yellow]{len(found['stale'])} question(s) no longer fit the collection[/]: see the report"
        )
    if found["gate"]:
        lines.append(f"  [bold]Gate[/]: {escape(found['gate']['message'])}")
    for line in lines:
        console.print(line, soft_wrap=True)


def _make_rag_table(found: dict[str, Any], *, whole: bool) -> Table:
    """All configurations; not ``whole``: without what a narrow terminal has no room for."""
    table = Table(title=f"Retrieval ({found['corpus']})", title_justify="left", title_style="bold")
    shown = found["ks"] if whole else [max(found["ks"])]
    metrics = [*(f"recall@{k}" for k in shown), found["ranking"], *(("mrr",) if whole else ())]
    table.add_column("Configuration")
    for column in (*metrics, f"against {found['reference']}", "p (Holm)", *(("ms",) if whole else ())):
        table.add_column(column, justify="right")
    for row in found["rows"]:
        against = row["against"]
        change = against["difference"] if against else None
        compared = f"{change['mean']:+.3f}" if change else "–"
        if change and whole:
            compared += f" [{change['low']:+.3f}, {change['high']:+.3f}]"
        table.add_row(
            escape(row["name"]),
            *(f"{row['means'][metric]:.3f}" for metric in metrics),
            escape(compared),
            f"{against['p_corrected']:.3f}" if against else "–",
            *((f"{row['median_ms']:.0f}",) if whole else ()),
            style="bold" if row["name"] == found["recommendation"]["name"] else "",
        )
    return table


def _show_training(_: str, found: dict[str, Any]) -> None:
    """Show where the model is, and its first and last losses."""
    numbers = found["metrics"]
    lines = [f"  [bold]Model[/]: {escape(found['folder'])} ({escape(found['status'])})"]
    for name in ("loss", "validation_loss", "reward_margin", "validation_reward_margin"):
        if f"{name}_first" in numbers:
            label = name.replace("_", " ").capitalize()
            lines.append(
                f"  [bold]{label}[/]: {numbers[f'{name}_first']:.4f} → {numbers[f'{name}_last']:.4f} "
                f"in {numbers['steps']:.0f} steps"
            )
    for line in lines:
        console.print(line, soft_wrap=True)


def _show_promotion(_: str, found: dict[str, Any]) -> None:
    """Show which version was decided on, and whether it may serve."""
    if not found["decided"]:
        registered = (
            f"[bold]Registered[/]: {escape(found['version'])}" if found["version"] else "[bold]No decision[/]"
        )
        console.print(f"  {registered} [dim]({escape(found['reasons'][0])})[/]", soft_wrap=True)
        return
    mark = "[green]✓[/]" if found["promoted"] else "[red]✗[/]"
    said = f"is in {found['stage']}" if found["promoted"] else "does not go to staging"
    console.print(f"  {mark} [bold]{escape(found['version'])}[/] {escape(said)}:", soft_wrap=True)
    for reason in found["reasons"]:
        console.print(f"    - {escape(reason)}", soft_wrap=True)
    if found["promoted"]:
        console.print(
            f"    [dim]To production: {POE} promote-model {escape(found['version'])}[/]", soft_wrap=True
        )


def _show_model_evaluation(_: str, found: dict[str, Any]) -> None:
    """Show the table of all systems, and the differences that are significant."""
    report = found["report"]
    table = Table(title=f"Models ({report['dataset']})", title_justify="left", title_style="bold")
    for number, column in enumerate(found["table"]["columns"]):
        table.add_column(column, justify="right" if number else "left")
    for row in found["table"]["rows"]:
        table.add_row(*(escape(cell) for cell in row))
    show_table(table)
    for item in report["differences"]:
        told = item["clusters"] > 1 and (item["low"] > 0 or item["high"] < 0)
        if told and not item["slice"]:
            good = (item["low"] > 0) == item["higher_is_better"]
            style = "green" if good else "red"
            console.print(
                f"  [{style}]{item['candidate']} {'better' if good else 'worse'} than {item['reference']}[/]: "
                f"{escape(item['metric'])} {item['value']:+.3f} \\[{item['low']:+.3f}, {item['high']:+.3f}]",
                soft_wrap=True,
            )


def _shares(answers: dict[str, Any]) -> list[str]:
    names = {
        "answered_share": "answered",
        "declined_share": "declined",
        "citation_precision": "citation precision",
        "answer_cited_share": "cite the place asked for",
        "supported_share": "sentences supported",
    }
    return [f"{label} {_share(answers[name])}" for name, label in names.items()]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


_PAGES = {
    "rag_evaluation_report": "Report",
    "model_evaluation_report": "Report",
    "training_plot": "Curves",
}
"""Pages that have no place in a folder of their own."""
_STYLES = {"saved": "green", "updated": "cyan", "failed": "red", "unchanged": "dim"}


def _show_analysis(step: str, report: dict[str, Any]) -> None:
    """Show what an analysis did, and how often each class was found."""
    _show_numbers(step, {name: value for name, value in report.items() if isinstance(value, int)})
    for field, counts in report["values"].items():
        listed = ", ".join(
            f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda it: -it[1])
        )
        console.print(f"  [bold]{escape(field)}[/]: {escape(listed)}", soft_wrap=True)


def _show_heads(_: str, report: dict[str, Any]) -> None:
    """Show a line for each head: how good it is, and whether it is in use."""
    for field, told in report.items():
        console.print(f"[bold]{escape(field)}[/]: {escape(told['verdict'])}", soft_wrap=True)


_SHOWN: dict[str, Callable[[str, dict[str, Any]], None]] = {
    "collection_report": _show_links,
    "cleaning_report": _show_numbers,
    "near_duplicate_report": _show_numbers,
    "index_report": _show_numbers,
    "analysis_report": _show_analysis,
    "head_report": _show_heads,
    "rag_evaluation": _show_rag_evaluation,
    "generation_report": _show_generation,
    "dataset_report": _show_dataset,
    "model_evaluation": _show_model_evaluation,
    "training_report": _show_training,
    "promotion": _show_promotion,
}
