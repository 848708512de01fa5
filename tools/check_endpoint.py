"""Asks the configured language model what it must know, then puts it under load: ``./poe check-endpoint [--config FILE]``.

The model is the one that the settings name (``LLM_ENDPOINT``, ``LLM_BASE_URL``). Exit code 1: it misses what the
file demands.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.deployment.serving_check import (
    LoadReport,
    Reply,
    ServingCheckConfig,
    ask_references,
    list_shortfalls,
    put_under_load,
)
from llm_engineering.application.ports import LanguageModel
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, run, user_path
from tools.run_config import read_service_config

CONFIG = Path("configs/check_endpoint.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("check-endpoint", __doc__)
    parser.add_argument(
        "--config", type=user_path, default=CONFIG, help="what is demanded (default %(default)s)"
    )
    parser.add_argument("--without-load", action="store_true", help="the reference answers alone")
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    config = read_service_config(options.config, ServingCheckConfig)
    if options.without_load:
        config = config.model_copy(update={"load": None})
    with open_resources(settings) as resources:
        model = resources.language_model
        console.print(f"Model: {escape(model.name)}")
        replies, load = asyncio.run(_check(model, config))
    return show(config, replies, load)


def show(config: ServingCheckConfig, replies: Sequence[Reply], load: LoadReport | None) -> int:
    """Print what was measured and what is missed; return the exit code."""
    table = Table("", "Expected", "Answer", "First, s", "All, s", box=None, pad_edge=False)
    for reply in replies:
        sign = "[green]✓[/]" if reply.right else "[red]✗[/]"
        said = " ".join((reply.error or reply.text).split())
        first = "–" if reply.first_seconds is None else f"{reply.first_seconds:.2f}"
        expected = " | ".join(reply.question.expect)
        table.add_row(sign, escape(expected), escape(said[:160]), first, f"{reply.seconds:.2f}")
    console.print(table)
    if load is not None:
        console.print(
            f"Load: {load.requests} requests, {load.failed} failed · half within {load.p50_seconds:.1f} s, 95 % within "
            f"{load.p95_seconds:.1f} s · {load.requests_per_second:.2f} answers a second"
        )
    shortfalls = list_shortfalls(config, replies, load)
    for line in shortfalls:
        console.print(f"[red]✗[/] {escape(line)}")
    if not shortfalls:
        console.print("[green]✓[/] All that is demanded holds.")
    return 1 if shortfalls else 0


async def _check(model: LanguageModel, config: ServingCheckConfig) -> tuple[list[Reply], LoadReport | None]:
    try:
        replies = await ask_references(model, config)
        load = None if config.load is None else await put_under_load(model, config, config.load)
    finally:
        await model.close()
    return replies, load


if __name__ == "__main__":
    run(main)
