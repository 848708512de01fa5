"""Runs the inference service: ``./poe run-inference-ml-service [--host … --port … --config configs/inference.yaml]``."""

import asyncio
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from loguru import logger
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from llm_engineering.application.analysis.config import RecordAnalysis
from llm_engineering.application.features.config import FeatureEngineering
from llm_engineering.application.inference.pipeline import InferenceConfig
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.bootstrap.service import build_service_app, find_api_keys, open_listener
from llm_engineering.domain.analyses import AnalysisSpec
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings, load_settings
from tools.console import add_demo_option, console, make_parser, run, user_path
from tools.pipeline_runs import PipelineRuns
from tools.run_config import read_run_config, read_service_config
from tools.warm_server import share_models

CONFIG = Path("configs/inference.yaml")
FEATURES = Path("configs/feature_engineering.yaml")
"""How files that are added are indexed."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("run-inference-ml-service", __doc__)
    parser.add_argument(
        "--host", help="address to listen on (SERVICE_HOST); 0.0.0.0 for all, which needs an API key"
    )
    parser.add_argument("--port", type=int, help="port (SERVICE_PORT); 0 takes a free one")
    parser.add_argument("--config", help=f"how questions are answered (default {CONFIG})")
    add_demo_option(parser)
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    host = options.host or settings.service.host
    port = settings.service.port if options.port is None else options.port
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"--port must lie between 0 and 65535, got {port}.")
    serve(settings, host, port, user_path(options.config) if options.config else CONFIG)
    return 0


def serve(settings: Settings, host: str, port: int, file: Path = CONFIG) -> None:
    """Serve answers until SIGTERM or Ctrl-C.

    Raises:
        ConfigurationError: the address cannot be had, or the file is wrong.
    """
    config = read_service_config(file, InferenceConfig)
    features = read_run_config(FEATURES, FeatureEngineering)[0].features
    specs = read_specs(config)
    with open_resources(settings) as resources, open_listener(host, port) as listener:
        service = build_service_app(
            resources, config, host=host, features=features, analyses=specs, runner=find_runner(settings)
        )
        sharing: list[asyncio.Task[None]] = []  # the event loop itself holds its tasks only weakly

        def started() -> None:
            introduce(resources, listener.url, host, file)
            sharing.append(asyncio.get_running_loop().create_task(share_models(resources)))

        listener.serve(service, shutdown_seconds=settings.service.shutdown_seconds, started=started)
    if settings.log.format == "human":
        console.print("[green]✓[/] Stopped.")


def find_runner(settings: Settings) -> PipelineRuns | None:
    """Return what starts pipelines; None where this installation has none, as in the service's image."""
    if find_spec("zenml") is None:
        return None
    return PipelineRuns(settings.local.data_dir / "runs")


def read_specs(config: InferenceConfig) -> dict[Path, AnalysisSpec]:
    """Read the analyses that a service's configuration names, by their files.

    Raises:
        ConfigurationError: one is missing or wrong.
    """
    return {file: read_run_config(file, RecordAnalysis)[0].analysis.spec for file in config.analyses}


def introduce(resources: Resources, url: str, host: str, config: Path) -> None:
    """Say what runs here and how to talk to it."""
    settings = resources.settings
    logger.info("The inference service listens on {}; its models are being loaded.", url)
    if settings.log.format == "json":
        return  # a machine reads this
    keys = [key.name for key in find_api_keys(resources).read_keys().keys]
    chunks = resources.index.count()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    rows = {
        "Chat page": f"[link={url}/]{url}/[/link]",
        "API": f"{url}/docs",
        "Model": f"{escape(resources.language_model.name)} · {settings.llm.kind} · grounding {resources.llm_profile.grounding}",
        "Search": _search(resources),
        "Index": f"{chunks:,} chunks"
        if chunks
        else f"[yellow]empty; fill it: {POE} run-end-to-end-data-pipeline[/]",
        "API keys": ", ".join(escape(name) for name in keys)
        or f"none needed from this machine ({escape(host)})",
        "Config": escape(str(config)),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(
        Panel(
            table,
            title="[bold]LLM twin[/]",
            subtitle="Ctrl-C stops it",
            title_align="left",
            border_style="cyan",
        )
    )
    # Outside of the frame, on one line however long, so that it can be copied.
    console.print(f"[dim]Try:[/] {_curl(url, with_key=bool(keys))}\n", soft_wrap=True, no_wrap=True)


def _search(resources: Resources) -> str:
    reranker = resources.reranker
    return f"{escape(resources.settings.embedder.model)} · reranked by {escape(reranker.name) if reranker else 'nothing'}"


def _curl(url: str, *, with_key: bool) -> str:
    key = ' -H "Authorization: Bearer $SERVICE_API_KEY"' if with_key else ""
    body = '\'{"query": "What is hybrid search?"}\''
    return escape(f"curl -N {url}/rag/stream{key} -H 'Content-Type: application/json' -d {body}")


if __name__ == "__main__":
    run(main)
