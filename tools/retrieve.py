"""Shows what the retriever finds: ``poe call-rag-retrieval-module --query "…" [--author … --category … --k …]``.

All stages run as in the inference service: guard, self-query, expansion, search, rerank. ``--config`` takes the service's file.
"""

import argparse
import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from llm_engineering.application.inference.pipeline import InferenceConfig
from llm_engineering.application.inference.retriever import RetrievalConfig, Retrieved, Retriever
from llm_engineering.application.ports.observability import Recorder
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.retrieval import (
    Hit,
    MetadataFilter,
    Query,
    SearchMode,
    WeightedFusion,
)
from llm_engineering.settings import load_settings
from tools.console import console, run
from tools.run_config import read_service_config


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="poe call-rag-retrieval-module", description=__doc__)
    parser.add_argument("--query", required=True, help="what to look for")
    parser.add_argument("--config", type=Path, help="the inference service's file, configs/inference.yaml")
    add_search_options(parser)
    parser.set_defaults(k=None, mode=None)
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    config = (
        read_service_config(options.config, InferenceConfig).retrieval
        if options.config
        else RetrievalConfig()
    )
    query = query_from(options.query, options, config)
    with open_resources(settings) as resources:
        resources.embedder.embed_queries(
            ["warm up"]
        )  # so that the times shown are those of a search, not of loading a model
        recorder = Recorder("search")
        found = asyncio.run(_retrieve(query, resources, config, recorder))
    show_hits(found.hits)
    show_provenance(found, recorder.sum_timings())
    return 0


async def _retrieve(
    query: Query, resources: Resources, config: RetrievalConfig, recorder: Recorder
) -> Retrieved:
    model = resources.language_model if config.needs_model else None
    retriever = Retriever(resources.index, resources.embedder, model, resources.reranker, config)
    try:
        return await retriever.retrieve(query, recorder)
    finally:
        retriever.close()
        if model is not None:
            await model.close()


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command over the index shares."""
    parser.add_argument("--k", type=int, default=5, help="how many hits (default 5)")
    parser.add_argument("--author", action="append", default=[], help="only this author; repeatable")
    parser.add_argument(
        "--category", action="append", default=[], help="article, post, repository …; repeatable"
    )
    parser.add_argument("--platform", action="append", default=[], help="only this platform; repeatable")
    parser.add_argument(
        "--language", action="append", default=[], help="only this language (en, python …); repeatable"
    )
    parser.add_argument(
        "--from", dest="published_from", metavar="DATE", help="published on or after, YYYY-MM-DD"
    )
    parser.add_argument(
        "--to", dest="published_to", metavar="DATE", help="published on or before, YYYY-MM-DD"
    )
    parser.add_argument("--mode", choices=list(SearchMode), default=SearchMode.HYBRID, type=SearchMode)
    parser.add_argument(
        "--alpha", type=float, help="fuse by weighted scores: 1 is dense only, 0 words only (default: RRF)"
    )


def query_from(text: str, options: argparse.Namespace, config: RetrievalConfig = RetrievalConfig()) -> Query:
    """Return a query from a command line; what it leaves open as configured.

    Raises:
        InvalidInputError: the question, a date, ``--k`` or ``--alpha`` cannot be used.
    """
    if options.k is not None and not 1 <= options.k <= 100:
        raise InvalidInputError(f"--k must lie between 1 and 100, got {options.k}.")
    if options.alpha is not None and not 0 <= options.alpha <= 1:
        raise InvalidInputError(f"--alpha must lie between 0 and 1, got {options.alpha}.")
    start, end = _date(options.published_from, "--from"), _date(options.published_to, "--to")
    if start and end and start > end:
        raise InvalidInputError(f"--from ({start:%Y-%m-%d}) lies after --to ({end:%Y-%m-%d}).")
    if end:
        end = end.replace(hour=23, minute=59, second=59)
    return config.query(
        text,
        k=options.k,
        mode=options.mode,
        fusion=None if options.alpha is None else WeightedFusion(alpha=options.alpha),
        filter=MetadataFilter(
            authors=tuple(options.author),
            categories=tuple(options.category),
            platforms=tuple(options.platform),
            languages=tuple(options.language),
            published_from=start,
            published_to=end,
        ),
    )


def _date(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInputError(f"{option} expects a date like 2026-01-31, got '{text}'.") from None


def show_hits(hits: Sequence[Hit]) -> None:
    """Print hits, best first, each with its score, place and text."""
    if not hits:
        console.print("[yellow]Nothing found.[/] Try fewer filters or other words.")
    for rank, hit in enumerate(hits, start=1):
        chunk = hit.chunk
        similarity = f" · cosine {hit.dense_score:.2f}" if hit.dense_score is not None else ""
        where = " > ".join(part for part in (chunk.title, *chunk.headings[-1:]) if part)
        console.print(
            Panel(
                Text(chunk.text.strip()),
                title=f"[bold]{rank}[/]  {escape(where)}",
                title_align="left",
                subtitle=f"[dim]score {hit.score:.3f}{similarity} · {escape(chunk.author)} · {escape(chunk.link)}[/]",
                subtitle_align="left",
                border_style="cyan",
            )
        )


def show_provenance(found: Retrieved, timings: dict[str, float]) -> None:
    """Print what the hits were found with: the filter read from the question, what failed, how long each stage took."""
    made = found.provenance
    for sentence in made.degradations:
        console.print(f"[yellow]{escape(sentence)}[/]")
    for note in made.notes:
        console.print(f"[dim]{escape(note)}[/]")
    if len(made.queries) > 1:
        console.print(f"[dim]also searched for: {escape(' · '.join(made.queries[1:]))}[/]")
    stages = ", ".join(f"{name} {seconds * 1000:.0f}" for name, seconds in timings.items() if name != "total")
    reranked = f" · reranked by {made.reranker}" if made.reranker else ""
    console.print(
        f"[dim]{len(found.hits)} hits, {made.mode} search, {timings['total'] * 1000:.0f} ms ({stages}){reranked}[/]"
    )


if __name__ == "__main__":
    run(main)
