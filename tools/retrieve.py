"""Shows what the retriever finds: ``./poe call-rag-retrieval-module --query "…" [--author … --category … --k …]``.

All stages run as in the inference service: guard, self-query, expansion, search, rerank. ``--config`` takes the service's file.
``--explain`` says how each passage came to its place, which came close, and whether a question would be answered from them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from llm_engineering.application.inference.abstention import AbstentionFloor
from llm_engineering.application.inference.answer import AnsweringConfig, estimate_confidence
from llm_engineering.application.inference.explain import Candidate, Place, list_candidates
from llm_engineering.application.inference.pipeline import InferenceConfig
from llm_engineering.application.inference.retriever import Retrieved, Retriever
from llm_engineering.application.inference.search import FILTERS, as_passages
from llm_engineering.application.ports.observability import Recorder
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.domain.retrieval import Hit, MetadataFilter, Query
from llm_engineering.settings import load_settings
from tools.console import add_demo_option, console, hold_log, make_parser, run
from tools.run_config import read_service_config
from tools.search_options import add_search_options, query_from

CLOSE = 5
"""Passages that are named of those that were looked at and left behind."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """How the hits came about."""

    candidates: list[Candidate]
    confidence: float
    """How near the hits come to the question."""
    floor: float
    """The nearness from which a question is answered."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("call-rag-retrieval-module", __doc__)
    parser.add_argument("--query", required=True, help="what to look for")
    parser.add_argument("--config", type=Path, help="the inference service's file, configs/inference.yaml")
    parser.add_argument("--explain", action="store_true", help="say how each passage came to its place")
    add_search_options(parser)
    add_demo_option(parser)
    parser.set_defaults(k=None, mode=None)
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    config = read_service_config(options.config, InferenceConfig) if options.config else InferenceConfig()
    query = query_from(options.query, options, config.retrieval)
    with hold_log(settings), open_resources(settings) as resources:
        resources.embedder.embed_queries(
            ["warm up"]
        )  # so that the times shown are those of a search, not of loading a model
        recorder = Recorder("search")
        found, explanation = asyncio.run(
            _retrieve(query, resources, config, recorder, explained=options.explain)
        )
    show_hits(found.hits, explanation)
    show_provenance(found, recorder.sum_timings())
    if explanation:
        show_explanation(found, explanation)
    return 0


async def _retrieve(
    query: Query, resources: Resources, config: InferenceConfig, recorder: Recorder, *, explained: bool
) -> tuple[Retrieved, Explanation | None]:
    model = resources.language_model if config.retrieval.needs_model else None
    retriever = Retriever(resources.index, resources.embedder, model, resources.reranker, config.retrieval)
    try:
        found = await retriever.retrieve(query, recorder, for_answer=explained)
        explanation = (
            await asyncio.to_thread(_explain, found, query, resources, retriever, config.answering)
            if explained
            else None
        )
        return found, explanation
    finally:
        retriever.close()
        if model is not None:
            await model.close()


def _explain(
    found: Retrieved, query: Query, resources: Resources, retriever: Retriever, answering: AnsweringConfig
) -> Explanation:
    depth = retriever.count_candidates(query.k)
    candidates = list_candidates(
        found, query, resources.index, resources.embedder, resources.reranker, depth=depth
    )
    floor = answering.min_similarity
    if floor is None:
        floors = AbstentionFloor(
            resources.index, resources.embedder, retriever.rank, resources.floor_file
        ).get()
        floor = floors.similarity if found.closeness is None else floors.confidence
    confidence = estimate_confidence(found.question, as_passages(found.hits), found.closeness)
    return Explanation(candidates, confidence, floor)


def show_hits(hits: Sequence[Hit], explanation: Explanation | None = None) -> None:
    """Print hits, best first, each with its score, place and text, and how it came there."""
    ways = {one.hit.chunk.id: one for one in explanation.candidates} if explanation else {}
    if not hits:
        console.print("[yellow]Nothing found.[/] Try fewer filters or other words.")
    for rank, hit in enumerate(hits, start=1):
        chunk = hit.chunk
        similarity = f" · cosine {hit.dense_score:.2f}" if hit.dense_score is not None else ""
        console.print(f"[bold cyan]{rank}[/]  [bold]{escape(_describe_place(hit))}[/]")
        console.print(
            "   [dim]"
            + " · ".join(
                filter(None, (f"score {hit.score:.3f}{similarity}", escape(chunk.author), escape(chunk.link)))
            )
            + "[/]"
        )
        if way := ways.get(chunk.id):
            console.print(f"   [cyan]{_describe_way(way)}[/]")
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


def show_explanation(found: Retrieved, explanation: Explanation) -> None:
    """Print what came close, the filter, and whether a question would be answered."""
    behind = [one for one in explanation.candidates if one.final is None]
    if behind:
        console.print(f"\n[bold]Looked at and left behind[/] [dim]({len(behind)})[/]")
    for one in behind[:CLOSE]:
        console.print(f"   {escape(_describe_place(one.hit))}")
        console.print(f"   [cyan]{_describe_way(one)}[/]")
    console.print(f"\n[bold]Filter[/]: {escape(_describe_filter(found.provenance.filter)) or 'none'}")
    enough = explanation.confidence >= explanation.floor and found.hits
    console.print(
        f"[bold]Near enough?[/] {explanation.confidence:.3f}, and answers begin at {explanation.floor:.3f}: "
        + ("[green]it would be answered[/]" if enough else "[yellow]it would be declined[/]")
    )


def _describe_place(hit: Hit) -> str:
    return " > ".join(part for part in (hit.chunk.title, *hit.chunk.headings[-1:]) if part)


def _describe_way(way: Candidate) -> str:
    """The place in each list, with the score there."""
    lists: dict[str, Place | None] = {
        "meaning": way.dense,
        "words": way.words,
        "fused": way.fused,
        "reranker": way.reranked,
    }
    return " · ".join(
        f"{name} {f'#{place.rank} ({place.score:.3f})' if place else '–'}" for name, place in lists.items()
    )


def _describe_filter(filter: MetadataFilter) -> str:
    parts = [f"{name} {', '.join(getattr(filter, name))}" for name, _ in FILTERS if getattr(filter, name)]
    dates = (("from", filter.published_from), ("to", filter.published_to))
    return "; ".join([*parts, *(f"{word} {date:%Y-%m-%d}" for word, date in dates if date)])


if __name__ == "__main__":
    run(main)
