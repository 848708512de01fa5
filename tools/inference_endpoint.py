"""Model endpoints on Amazon SageMaker: ``./poe deploy-inference-endpoint``, ``./poe list-inference-endpoints``,
``./poe test-sagemaker-endpoint``, ``./poe delete-inference-endpoint``.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.deployment.config import Deployment
from llm_engineering.application.deployment.prices import PriceTable, estimate_range
from llm_engineering.application.ports import GenerationOptions, Message
from llm_engineering.bootstrap.aws import (
    check_deployment,
    open_endpoint_model,
    open_endpoints,
    plan_deployment,
    read_prices,
)
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.domain.errors import ModelServiceError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings, load_settings
from tools.console import console, errors, make_parser, run, user_path
from tools.run_config import read_service_config

CONFIG = Path("configs/deploy_inference.yaml")
INTERRUPTED = 130
_QUESTION = "In one sentence: what is a language model?"
_METRICS = {"concurrency": "requests in progress", "invocations": "requests a minute"}
_STYLES = {"InService": "bold green", "Failed": "bold red"}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    settings = load_settings()
    start_logging(settings)
    commands = {"deploy": _deploy, "list": _list, "test": _test, "delete": _delete}
    return commands[options.command](settings, options)


def _deploy(settings: Settings, options: argparse.Namespace) -> int:
    deployment = read_service_config(options.config, Deployment)
    plan = plan_deployment(settings, deployment)
    with open_endpoints(settings, show_progress()) as endpoints:
        check_deployment(endpoints, plan)
        there = endpoints.find(deployment.endpoint)
        _show_plan(plan, endpoints.region, "update" if there else "make")
        if not options.yes:
            console.print("Nothing was started. To go on: the same command with [bold]--yes[/]")
            return 1
        try:
            state = endpoints.deploy(plan)
        except KeyboardInterrupt:
            errors.print(
                f"[yellow]What was begun goes on in AWS, and costs. The same command goes on from there; {POE} "
                f"delete-inference-endpoint {deployment.endpoint} --yes takes it away.[/]"
            )
            return INTERRUPTED
        region = endpoints.region
    console.print(
        f"[green]✓[/] {escape(state.name)} serves {escape(plan.model.label)} on {state.instance_type}."
    )
    _show_settings(deployment, region)
    return 0


def _show_plan(plan: Any, region: str, doing: str) -> None:
    deployment = plan.deployment
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("Endpoint", f"{escape(deployment.endpoint)}, to {doing} in {region}")
    table.add_row("Model", escape(plan.model.label))
    for name in ("adapter", "template_hash", "prompt"):
        if value := plan.model.facts.get(name):
            table.add_row(name.replace("_", " ").capitalize(), escape(value[:16]))
    quantization = deployment.container.quantization
    table.add_row("Server", f"{deployment.container.server}{f', {quantization}' if quantization else ''}")
    table.add_row("Machines", f"{deployment.instance.count} × {deployment.instance.type}")
    if deployment.scaling is not None:
        scaling = deployment.scaling
        bounds = f"{scaling.min_copies} to {scaling.max_copies}"
        table.add_row("Copies", f"{bounds}, each with {scaling.target:g} {_METRICS[scaling.metric]}")
    table.add_row("Price", describe_price(read_prices(), deployment, region))
    console.print(table)


def describe_price(prices: PriceTable, deployment: Deployment, region: str) -> str:
    """Return what an endpoint costs an hour, and how old that is; or that nobody knows."""
    hourly = prices.find_hourly(region, deployment.instance.type)
    if hourly is None:
        return (
            f"unknown: {deployment.instance.type} in {region} is not in infra/aws/prices.yaml. Look it up before you go on: "
            "https://aws.amazon.com/sagemaker/ai/pricing/"
        )
    start, least, most = estimate_range(deployment)
    told = f"{start * hourly:.2f} {prices.currency} an hour"
    if (least, most) != (start, start):
        told += f" at first, {least * hourly:.2f} to {most * hourly:.2f} as it scales"
    return f"{told} ({prices.describe_source()}). It runs, and costs, until it is deleted."


def _show_settings(deployment: Deployment, region: str) -> None:
    if deployment.asynchronous is not None:
        console.print(f"Ask it: {POE} run-batch-inference --way asynchronous --input FILE --output FILE")
        return
    settings = {"LLM_KIND": "sagemaker", "LLM_ENDPOINT": deployment.endpoint, "LLM_REGION": region}
    if deployment.component is not None:
        settings["LLM_INFERENCE_COMPONENT"] = deployment.endpoint
    settings["LLM_CONTEXT_TOKENS"] = str(deployment.limits.max_total_tokens)
    console.print("Set for the twin:")
    for name, value in settings.items():
        console.print(f"  {name}={value}")
    console.print(
        f"[dim]Try it: {POE} test-sagemaker-endpoint. Take it away: {POE} delete-inference-endpoint --yes[/]"
    )


def _list(settings: Settings, options: argparse.Namespace) -> int:
    with open_endpoints(settings) as endpoints:
        found = endpoints.list_endpoints(None if options.all else options.project)
        region = endpoints.region
    if not found:
        console.print(
            f"No endpoint of {options.project} in {region}."
            if not options.all
            else f"No endpoint in {region}."
        )
        return 0
    prices = read_prices()
    table = Table(title=f"Endpoints in {region}", title_justify="left", title_style="bold")
    for column in ("Name", "Status", "Model", "Machines", "Copies", f"{prices.currency} an hour"):
        table.add_column(column, overflow="fold")
    for state in found:
        hourly = prices.find_hourly(region, state.instance_type)
        style = _STYLES.get(state.status, "yellow")
        table.add_row(
            escape(state.name),
            f"[{style}]{state.status}[/]",
            escape(state.tags.get("model", "–")),
            f"{state.instances} × {state.instance_type}",
            "–" if state.copies is None else str(state.copies),
            "unknown" if hourly is None else f"{hourly * state.instances:.2f}",
        )
    console.print(table)
    console.print(f"[dim]Prices: {prices.describe_source()}[/]")
    for state in found:
        if state.reason:
            console.print(f"[yellow]{escape(state.name)}[/]: {escape(state.reason)}")
    return 0


def _test(settings: Settings, options: argparse.Namespace) -> int:
    deployment = read_service_config(options.config, Deployment)
    name = options.endpoint or deployment.endpoint
    started = time.perf_counter()
    first = None

    async def ask() -> None:
        nonlocal first
        model = open_endpoint_model(settings, deployment, name)
        try:
            async for delta in model.stream(
                [Message("user", options.question)], GenerationOptions(max_tokens=options.max_tokens)
            ):
                if delta.text and first is None:
                    first = time.perf_counter() - started
                console.out(delta.text, end="", highlight=False)
        finally:
            await model.close()

    asyncio.run(ask())
    console.out("")
    if first is None:
        raise ModelServiceError(f"The endpoint {name} answered, but with no text.")
    console.print(
        f"[green]✓[/] First words after {first:.1f} s, all after {time.perf_counter() - started:.1f} s."
    )
    return 0


def _delete(settings: Settings, options: argparse.Namespace) -> int:
    deployment = read_service_config(options.config, Deployment)
    name = options.endpoint or deployment.endpoint
    if not options.yes:
        console.print(
            f"This deletes the endpoint {escape(name)} with its models, configurations, scaling, alarms, files and logs, "
            "and with its queue and its batches: fetch their answers first. "
            "Nothing was deleted. To go on: the same command with [bold]--yes[/]"
        )
        return 1
    with open_endpoints(settings, show_progress()) as endpoints:
        removed = endpoints.delete(name, deployment.project, keep_logs=options.keep_logs)
    for one in removed:
        console.print(f"  deleted {escape(one)}")
    logs = "" if not options.keep_logs else " but its logs"
    console.print(
        f"[green]✓[/] Nothing of {escape(name)} is left{logs}. A bucket that keeps versions, such as Terraform's, keeps those of "
        "its files for 30 days more."
    )
    return 0


def show_progress() -> Callable[[str], None]:
    """Return what prints each change of a state, with the time since now."""
    started = time.monotonic()

    def show(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - started), 60)
        console.print(f"[dim]{minutes:3d}:{seconds:02d}[/]  {escape(text)}")

    return show


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("…-inference-endpoint", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    deploy = commands.add_parser("deploy", prog=f"{POE} deploy-inference-endpoint")
    deploy.add_argument("--yes", action="store_true", help="start what the plan says, at its price")
    listing = commands.add_parser("list", prog=f"{POE} list-inference-endpoints")
    listing.add_argument("--project", default="llm-twin", help="whose (default %(default)s)")
    listing.add_argument("--all", action="store_true", help="those of others too")
    test = commands.add_parser("test", prog=f"{POE} test-sagemaker-endpoint")
    test.add_argument("--question", default=_QUESTION, help="what to ask (default: %(default)s)")
    test.add_argument("--max-tokens", type=int, default=128, help="of the reply (default %(default)s)")
    delete = commands.add_parser("delete", prog=f"{POE} delete-inference-endpoint")
    delete.add_argument("--yes", action="store_true", help="delete without asking")
    delete.add_argument("--keep-logs", action="store_true", help="the containers' logs stay in CloudWatch")
    for command in (test, delete):
        command.add_argument("endpoint", nargs="?", help="its name (default: the file's)")
    for command in (deploy, test, delete):
        command.add_argument("--config", type=user_path, default=CONFIG, help="YAML (default %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)
