"""Serves a GGUF file, a trained model, or several adapters over one base as a service of its own, OpenAI-compatible:
``./poe run-llm-server [--port … --model … --adapters configs/llm_server_adapters.yaml]``.

Then the twin, on this machine or another, uses it by its address; business logic and model scale apart.
"""

import asyncio
from collections.abc import Sequence

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from llm_engineering.application.training.finetune.model_folder import AdapterServing
from llm_engineering.bootstrap.llm_service import build_llm_service
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.service import open_listener
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, run, user_path
from tools.run_config import read_service_config

PORT = 8089


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("run-llm-server", "Serve a model, OpenAI-compatible.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 for all, which needs LLM_API_KEY (default %(default)s)"
    )
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one (default %(default)s)")
    parser.add_argument(
        "--model-path", type=user_path, help="a GGUF file (LLM_MODEL_PATH; default: the bundled model)"
    )
    parser.add_argument(
        "--model",
        help="a trained model: NAME, NAME:VERSION, NAME:STAGE as list-models shows it, or its folder",
    )
    parser.add_argument(
        "--adapters",
        type=user_path,
        help="YAML with several trained models over one base, asked for by name: configs/llm_server_adapters.yaml",
    )
    parser.add_argument("--context-tokens", type=int, help="shared by all replies in progress")
    parser.add_argument("--parallel", type=int, help="replies at the same time")
    parser.add_argument("--threads", type=int, help="0: one less than there are cores")
    parser.add_argument(
        "--shutdown-seconds",
        type=float,
        default=30.0,
        help="for running replies to finish (default %(default)s)",
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65535:
        raise ConfigurationError(f"--port must lie between 0 and 65535, got {options.port}.")
    given = [name for name in ("model", "model_path", "adapters") if getattr(options, name)]
    if len(given) > 1:
        both = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigurationError(f"{both} each say what to serve; give one of them.")
    adapters = read_service_config(options.adapters, AdapterServing) if options.adapters else None
    settings = load_settings()
    start_logging(settings)
    overrides = {
        name: getattr(options, name) for name in ("model_path", "context_tokens", "parallel", "threads")
    }
    model, service = build_llm_service(
        settings, options.host, trained=options.model, adapters=adapters, **overrides
    )
    with open_listener(options.host, options.port) as listener:
        console.print(f"Loading {escape(model.name)} …")
        asyncio.run(model.load())
        listener.serve(
            service,
            shutdown_seconds=options.shutdown_seconds,
            started=lambda: introduce(listener.url, model.names, model.context_tokens, keyed=service.keyed),
        )
    console.print("[green]✓[/] Stopped.")
    return 0


def introduce(url: str, names: Sequence[str], context_tokens: int, *, keyed: bool) -> None:
    """Say what runs here, and what to set so that the twin uses it: of several models, the first adapter."""
    base, *adapters = names
    name = adapters[0] if adapters else base
    settings = {
        "LLM_BASE_URL": f"{url}/v1",
        "LLM_MODEL": name,
        "LLM_CONTEXT_TOKENS": str(context_tokens),
        **({"LLM_API_KEY": "(the same as here)"} if keyed else {}),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("Model", f"{escape(base)} · {context_tokens:,} tokens of prompt and reply")
    for index, adapter in enumerate(adapters):
        table.add_row("Adapters" if index == 0 else "", escape(adapter))
    table.add_row("Health", f"{url}/health")
    table.add_row("API keys", "LLM_API_KEY is asked for" if keyed else "none needed from this machine")
    for index, (variable, value) in enumerate(settings.items()):
        table.add_row("Set for the twin" if index == 0 else "", f"{variable}={escape(value)}")
    table.add_row("", "LLM_GROUNDING=quote  [dim]where the model is as small as the bundled ones[/]")
    console.print(
        Panel(
            table,
            title="[bold]Language model[/]",
            subtitle="Ctrl-C stops it",
            title_align="left",
            border_style="cyan",
        )
    )


if __name__ == "__main__":
    run(main)
