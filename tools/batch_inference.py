"""Answers a JSON Lines file of documents: ``./poe run-batch-inference --input FILE --output FILE``, by a transform job on
SageMaker, or by an asynchronous endpoint's queue (``--way asynchronous``). Run again, it asks only what has no answer yet.
"""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.markup import escape

from llm_engineering.application.deployment.batch import (
    BatchAnswer,
    BatchRequest,
    read_answered,
    read_requests,
)
from llm_engineering.application.deployment.config import Deployment
from llm_engineering.bootstrap.aws import open_batches, plan_deployment, read_prices
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, run, user_path
from tools.inference_endpoint import CONFIG, show_progress
from tools.run_config import read_service_config


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    settings = load_settings()
    start_logging(settings)
    deployment = read_service_config(options.config, Deployment)
    requests = _read(options)
    open_requests = _without_answer(requests, options.output)
    console.print(f"{len(requests):,} request(s), {len(requests) - len(open_requests):,} answered before.")
    if not open_requests:
        return 0
    with open_batches(settings, show_progress()) as (batches, region):
        prices = read_prices()
        hourly = prices.find_hourly(region, deployment.instance.type)
        if options.way == "asynchronous":
            if deployment.asynchronous is None:
                raise ConfigurationError(
                    "--way asynchronous needs an endpoint with the section 'asynchronous' in its file."
                )
            answers = batches.ask_asynchronously(deployment.endpoint, open_requests)
        else:
            price = (
                "an unknown price"
                if hourly is None
                else f"{hourly * deployment.instance.count:.2f} {prices.currency} an hour ({prices.describe_source()})"
            )
            console.print(
                f"A job on {deployment.instance.count} × {deployment.instance.type}, at {price}, as long as it runs."
            )
            if not options.yes:
                console.print("Nothing was started. To go on: the same command with [bold]--yes[/]")
                return 1
            answers = batches.transform(plan_deployment(settings, deployment), open_requests)
        started = time.monotonic()
        failed, done = _write(answers, options.output)
        seconds = batches.machine_seconds or (time.monotonic() - started) * deployment.instance.count
    sign = "[red]✗[/]" if failed else "[green]✓[/]"
    again = " Run again: only those that failed are asked." if failed else ""
    console.print(f"{sign} {done:,} answered, {failed:,} failed: {escape(str(options.output))}.{again}")
    if hourly is not None and done:
        cost = hourly * seconds / 3600
        console.print(
            f"About {cost:.2f} {prices.currency} of machines, {1000 * cost / done:.2f} for 1,000 answers "
            f"({prices.describe_source()})."
        )
    return 1 if failed else 0


def _read(options: argparse.Namespace) -> list[BatchRequest]:
    try:
        with options.input.open(encoding="utf-8") as lines:
            return read_requests(lines, instruction=options.instruction, max_tokens=options.max_tokens)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"The file {options.input} cannot be read: {error}.") from None


def _without_answer(requests: Sequence[BatchRequest], output: Path) -> list[BatchRequest]:
    if not output.exists():
        return list(requests)
    with output.open(encoding="utf-8") as lines:
        answered = read_answered(lines)
    return [request for request in requests if request.id not in answered]


def _write(answers: Iterable[BatchAnswer], output: Path) -> tuple[int, int]:
    """How many failed, and how many were answered. Each line is written as soon as it is there."""
    failed = done = 0
    output.parent.mkdir(parents=True, exist_ok=True)
    torn = output.exists() and output.stat().st_size > 0 and not output.read_bytes().endswith(b"\n")
    with output.open("a", encoding="utf-8") as file:
        if torn:
            file.write("\n")
        for answer in answers:
            file.write(json.dumps(answer.record, ensure_ascii=False) + "\n")
            file.flush()
            failed += bool(answer.error)
            done += not answer.error
    return failed, done


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("run-batch-inference", __doc__)
    parser.add_argument(
        "--input", type=user_path, required=True, metavar="FILE", help='{"id": "a", "text": "…"} a line'
    )
    parser.add_argument(
        "--output", type=user_path, required=True, metavar="FILE", help="answers; what is there stays"
    )
    parser.add_argument(
        "--instruction", default="", help='stands before each text: "Summarise in one sentence:"'
    )
    parser.add_argument("--max-tokens", type=int, default=512, help="of each answer (default %(default)s)")
    parser.add_argument(
        "--way", choices=("transform", "asynchronous"), default="transform", help="(default %(default)s)"
    )
    parser.add_argument(
        "--config", type=user_path, default=CONFIG, help="YAML of the endpoint (default %(default)s)"
    )
    parser.add_argument("--yes", action="store_true", help="start the job at its price")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)
