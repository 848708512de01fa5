"""Shows what the retriever finds: ``./poe call-rag-retrieval-module --query "…" [--author … --category … --k …]``.

All stages run as in the inference service: guard, self-query, expansion, search, rerank. ``--config`` takes the service's file.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from llm_engineering.application.inference.pipeline import InferenceConfig
from llm_engineering.application.inference.retriever import RetrievalConfig, Retrieved, Retriever
from llm_engineering.application.ports.observability import Recorder
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.domain.retrieval import Hit, Query
from llm_engineering.settings import load_settings
from tools.console import add_demo_option, console, hold_log, make_parser, run
from tools.run_config import read_service_config
from tools.search_options import add_search_options, query_from


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("call-rag-retrieval-module", __doc__)
    parser.add_argument("--query", required=True, help="what to look for")
    parser.add_argument("--config", type=Path, help="the inference service's file, configs/inference.yaml")
    add_search_options(parser)
    add_demo_option(parser)
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
    with hold_log(settings), open_resources(settings) as resources:
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


def show_hits(hits: Sequence[Hit]) -> None:
    """Print hits, best first, each with its score, place and text."""
    if not hits:
        console.print("[yellow]Nothing found.[/] Try fewer filters or other words.")
    for rank, hit in enumerate(hits, start=1):
        chunk = hit.chunk
        similarity = f" · cosine {hit.dense_score:.2f}" if hit.dense_score is not None else ""
        where = " > ".join(part for part in (chunk.title, *chunk.headings[-1:]) if part)
        console.print(f"[bold cyan]{rank}[/]  [bold]{escape(where)}[/]")
        console.print(
            "   [dim]"
            + " · ".join(
                filter(None, (f"score {hit.score:.3f}{similarity}", escape(chunk.author), escape(chunk.link)))
            )
            + "[/]"
        )
        for line in chunk.text.strip().splitlines():
            console.print(f"   {line}" if line.strip() else "", markup=False)
        console.print()


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
