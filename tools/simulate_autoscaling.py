"""Replays a load trace against the scaling of ``configs/deploy_inference.yaml``: ``./poe simulate-autoscaling --trace FILE``.

Prints copies, waiting and cost, for one setting or for several values of a knob (``--vary target=2,4,8``).
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.table import Table

from llm_engineering.application.deployment.config import Deployment, ScalingConfig
from llm_engineering.application.deployment.scaling import Request, Simulation, read_trace, simulate
from llm_engineering.bootstrap.aws import read_prices
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, run, user_path
from tools.inference_endpoint import CONFIG
from tools.run_config import read_service_config

ROWS = 12
"""Of the table of what happened when."""
_BAR = 30


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    deployment = read_service_config(options.config, Deployment)
    trace = _read(options.trace)
    region = options.region or load_settings().sagemaker.region
    prices = read_prices()
    hourly = prices.find_hourly(region, deployment.instance.type) if region else None
    if not region:
        console.print("[yellow]No region is named (--region, SAGEMAKER_REGION): no costs.[/]")
    elif hourly is None:
        console.print(
            f"[yellow]infra/aws/prices.yaml has no price of {deployment.instance.type} in {region}: no costs.[/]"
        )
    found = [
        (label, simulate(one, trace, start_seconds=options.start_seconds, per_copy=options.per_copy))
        for label, one in _variants(deployment, options.vary)
    ]
    _show(found, trace, hourly)
    if hourly is not None:
        console.print(f"[dim]Prices of {region}: {prices.describe_source()}[/]")
    if len(found) == 1:
        _show_course(found[0][1])
    if deployment.scaling is not None and deployment.scaling.schedules:
        console.print("[dim]Schedules are left out: a trace has no time of day.[/]")
    return 0


def _read(file: Path) -> list[Request]:
    try:
        with file.open(encoding="utf-8") as lines:
            return read_trace(lines)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"The trace {file} cannot be read: {error}.") from None


def _variants(deployment: Deployment, vary: str | None) -> Iterator[tuple[str, Deployment]]:
    if vary is None:
        yield "as configured", deployment
        return
    name, equals, values = vary.partition("=")
    if not equals or name not in ScalingConfig.model_fields or name == "schedules":
        known = sorted(ScalingConfig.model_fields.keys() - {"schedules"})
        raise InvalidInputError(
            f"--vary expects KNOB=VALUE,VALUE with one of {', '.join(known)}; got '{vary}'."
        )
    for value in values.split(","):
        given = deployment.model_dump()
        given["scaling"] = {**(given["scaling"] or {}), name: value}
        try:
            yield f"{name}={value}", Deployment.model_validate(given)
        except ValidationError as error:
            raise ConfigurationError(f"--vary {name}={value}: {error.errors()[0]['msg']}.") from None


def _show(found: Sequence[tuple[str, Simulation]], trace: Sequence[Request], hourly: float | None) -> None:
    hours = found[0][1].seconds / 3600
    table = Table(title=f"{len(trace):,} requests in {hours:.1f} h", title_justify="left", title_style="bold")
    table.add_column("")
    rows: dict[str, list[str]] = {}
    for label, result in found:
        table.add_column(label, justify="right", overflow="fold")
        for name, value in _figures(result, hourly):
            rows.setdefault(name, []).append(value)
    for name, values in rows.items():
        table.add_row(name, *values)
    console.print(table)


def _figures(result: Simulation, hourly: float | None) -> Iterator[tuple[str, str]]:
    copies = [sample.copies for sample in result.samples]
    yield "Answered", f"{result.answered:,}"
    yield "Refused, as no copy ran", f"{result.refused:,}"
    for name, share in (("Wait, half of them", 0.5), ("Wait, 95 %", 0.95), ("Wait, longest", 1.0)):
        yield name, f"{result.wait_quantile(share):.1f} s"
    yield "Copies", f"{min(copies)} to {max(copies)}"
    yield "Machine hours", f"{result.machine_hours:.2f}"
    if hourly is not None:
        cost = hourly * result.machine_hours
        yield "Cost, USD", f"{cost:.2f}"
        yield "Cost per 1,000 answers", f"{1000 * cost / result.answered:.2f}" if result.answered else "–"


def _show_course(result: Simulation) -> None:
    """Copies and queue over time, the worst of each stretch."""
    samples = result.samples
    size = max(1, -(-len(samples) // ROWS))
    table = Table.grid(padding=(0, 2))
    for _ in range(4):
        table.add_column()
    table.add_row("[dim]After[/]", "[dim]Copies[/]", "[dim]Starting[/]", "[dim]Waiting, at most[/]")
    longest = max(1, *(sample.waiting for sample in samples))
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        waiting = max(sample.waiting for sample in part)
        table.add_row(
            f"{part[-1].at / 60:.0f} min",
            str(max(sample.ready for sample in part)),
            str(max(sample.copies - sample.ready for sample in part) or ""),
            f"{waiting:,} {'█' * round(_BAR * waiting / longest)}",
        )
    console.print(table)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("simulate-autoscaling", __doc__)
    parser.add_argument(
        "--trace",
        type=user_path,
        required=True,
        metavar="FILE",
        help='JSON Lines: {"at": 12.5, "seconds": 3.2}, or the service\'s own traces (TRACING_KIND=jsonl)',
    )
    parser.add_argument("--config", type=user_path, default=CONFIG, help="YAML (default %(default)s)")
    parser.add_argument("--vary", metavar="KNOB=V,V", help="compare values of one knob of 'scaling'")
    parser.add_argument("--region", help="of the prices (default: SAGEMAKER_REGION)")
    parser.add_argument(
        "--start-seconds", type=_positive, default=300.0, help="until a new copy serves (default %(default)s)"
    )
    parser.add_argument(
        "--per-copy",
        type=_count,
        default=4,
        help="requests that a copy computes at a time (default %(default)s)",
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> float:
    value = float(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return value


def _count(text: str) -> Any:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    run(main)
