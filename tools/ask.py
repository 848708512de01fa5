"""Answers a question from what was collected: ``poetry poe ask "…" [--author … --k …]``."""

import argparse
import asyncio
from collections.abc import Sequence

from rich.markup import escape

from llm_engineering.application.answering import AnsweringConfig, answer
from llm_engineering.application.retrieval import narrow, retrieve, widen
from llm_engineering.bootstrap import Resources, open_resources, start_logging
from llm_engineering.domain.retrieval import Answer, Query
from llm_engineering.settings import load_settings
from tools.console import console, run
from tools.retrieve import add_search_options, query_from


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="poe ask", description=__doc__)
    parser.add_argument("question")
    add_search_options(parser)
    parser.set_defaults(k=3)
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    query = query_from(options.question, options)
    with open_resources(settings) as twin:
        asyncio.run(ask_once(query, twin))
    return 0


async def ask_once(query: Query, twin: Resources) -> Answer:
    """Ask one question, then close the language model."""
    try:
        return await ask(query, twin)
    finally:
        await twin.language_model.close()


async def ask(query: Query, twin: Resources) -> Answer:
    """Retrieve, stream the answer to the console, then list its sources."""
    hits = await asyncio.to_thread(retrieve, query, twin.index, twin.embedder)
    model = twin.language_model
    strict = twin.settings.llm.grounding == "strict"
    # A model that needs strict grounding is small, and loses the thread in wide passages.
    passages = narrow(hits) if strict else await asyncio.to_thread(widen, hits, twin.index)
    finished: Answer | None = None
    async for piece in answer(
        query.text, passages, model, AnsweringConfig(strict=strict), embed=twin.embedder.embed_queries
    ):
        if piece.answer is None:
            console.print(piece.text, end="", markup=False, soft_wrap=True)
        else:
            finished = piece.answer
    console.print()
    if finished is None:
        raise AssertionError("an answer always ends with its finished form")
    show_sources(finished)
    return finished


def show_sources(finished: Answer) -> None:
    """List the numbered sources, those that the answer cites in bold."""
    if finished.abstained:
        console.print("[dim]Nothing that was collected bears on this question closely enough.[/]")
        return
    if finished.quoted:
        console.print("[dim]In the sources' own words: what the model said was not close enough to them.[/]")
    elif finished.unsupported and not finished.cited:
        console.print("[yellow]No source backs this answer.[/]")
    console.print()
    for citation in finished.citations:
        passage = citation.passage
        style = "bold" if citation.number in finished.cited else "dim"
        where = " > ".join(part for part in (passage.title, *passage.headings[-1:]) if part)
        where = where or f"{' '.join(passage.text.split())[:60]}…"  # a post has no title
        similarity = f" · cosine {passage.dense_score:.2f}" if passage.dense_score is not None else ""
        console.print(f"[{style}]\\[{citation.number}] {escape(where)}[/]")
        console.print(
            f"    [dim]{escape(passage.author)}{similarity} · {escape(passage.link)}[/]", soft_wrap=True
        )


if __name__ == "__main__":
    run(main)
