"""Shows what the retriever finds: ``poe call-rag-retrieval-module --query "…" [--author … --category … --k …]``."""

import argparse
import time
from collections.abc import Sequence
from datetime import datetime

from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from llm_engineering.application.retrieval import retrieve
from llm_engineering.bootstrap import open_resources, start_logging
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.retrieval import (
    Hit,
    MetadataFilter,
    Query,
    RrfFusion,
    SearchMode,
    WeightedFusion,
)
from llm_engineering.settings import load_settings
from tools.console import console, run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="poe call-rag-retrieval-module", description=__doc__)
    parser.add_argument("--query", required=True, help="what to look for")
    add_search_options(parser)
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    query = query_from(options.query, options)
    with open_resources(settings) as twin:
        twin.embedder.embed_queries(
            ["warm up"]
        )  # so that the time shown is that of a search, not of loading a model
        started = time.perf_counter()
        hits = retrieve(query, twin.index, twin.embedder)
        elapsed = time.perf_counter() - started
    show_hits(hits)
    console.print(f"[dim]{len(hits)} hits, {query.mode} search, {elapsed * 1000:.0f} ms[/]")
    return 0


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


def query_from(text: str, options: argparse.Namespace) -> Query:
    """A query from a command line.

    Raises:
        InvalidInputError: the question, a date, ``--k`` or ``--alpha`` cannot be used.
    """
    if not 1 <= options.k <= 100:
        raise InvalidInputError(f"--k must lie between 1 and 100, got {options.k}.")
    if options.alpha is not None and not 0 <= options.alpha <= 1:
        raise InvalidInputError(f"--alpha must lie between 0 and 1, got {options.alpha}.")
    start, end = _date(options.published_from, "--from"), _date(options.published_to, "--to")
    if start and end and start > end:
        raise InvalidInputError(f"--from ({start:%Y-%m-%d}) lies after --to ({end:%Y-%m-%d}).")
    if end:
        end = end.replace(hour=23, minute=59, second=59)
    return Query.ask(
        text,
        k=options.k,
        mode=options.mode,
        fusion=RrfFusion() if options.alpha is None else WeightedFusion(alpha=options.alpha),
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


if __name__ == "__main__":
    run(main)
