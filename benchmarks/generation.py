"""Making training data without waiting for a model: what asking, checking, caching and recording cost by themselves.

The model answers at once. Replies go to a real MongoDB-wire server, as in a run. A second run must ask for nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from rich.table import Table

from benchmarks.common import Check, console, mongo_server, new_warehouse, show_checks, timed
from llm_engineering.application.ports import Delta, GenerationOptions, Message
from llm_engineering.application.training.datasets.config import PreferenceDatasetRun
from llm_engineering.application.training.datasets.generate import Generated, generate_preference
from llm_engineering.domain.documents import CleanDocument, RawDocument
from llm_engineering.domain.retrieval import Usage

ITEMS_A_SECOND = 200.0
_SENTENCES = 12


def main(items: int = 2_000, mongo: str | None = None) -> dict[str, Any]:
    """Measure with that many passages, one of a document each."""
    run = PreferenceDatasetRun.model_validate({"requests": {"concurrency": 16}, "feedback": None})
    model = InstantModel()
    with mongo_server(mongo) as uri, new_warehouse(uri) as warehouse:
        warehouse.clean.upsert([_document(number) for number in range(items)])

        def generate() -> Generated:
            return asyncio.run(generate_preference(warehouse, run, model))

        first, seconds = timed(generate)
        asked = model.requests
        again, seconds_again = timed(generate)
    table = Table(title=f"{items:,} preference triples", title_justify="left")
    for heading in ("run", "triples", "requests", "items/s"):
        table.add_column(heading, justify="left" if heading == "run" else "right")
    for name, made, requests, took in (
        ("first", first, asked, seconds),
        ("again", again, model.requests - asked, seconds_again),
    ):
        table.add_row(name, f"{len(made.samples):,}", f"{requests:,}", f"{items / took:,.0f}")
    console.print(table)
    checks = [
        Check("generation without the model", items / seconds, ITEMS_A_SECOND, "at least", " items/s"),
        Check("triples made", len(first.samples), items, "exactly"),
        Check("requests of a second run", model.requests - asked, 0, "exactly"),
    ]
    shown = [check.as_dict() for check in checks]
    show_checks("Generation", shown)
    return {"items": items, "seconds": seconds, "seconds_again": seconds_again, "checks": shown}


class InstantModel:
    """Says at once what is long enough to be used."""

    name = "instant"
    context_tokens = 8_192

    def __init__(self) -> None:
        self.requests = 0

    async def stream(
        self,
        messages: Sequence[Message],
        options: GenerationOptions = GenerationOptions(),  # noqa: ARG002 - it always says the same
    ) -> AsyncIterator[Delta]:
        """One piece of about as many words as the prompt asks for."""
        self.requests += 1
        words = int(messages[0].content.partition("about ")[2].split()[0])
        sentences = (
            f"Reply{n} shows {self.requests} other in small{n} boxes." for n in range(words // 7 + 1)
        )
        yield Delta(text=" ".join(sentences))
        yield Delta(finish_reason="stop", usage=Usage(prompt_tokens=60, completion_tokens=words))

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words."""
        return [len(text.split()) for text in texts]

    async def close(self) -> None:
        """Nothing is held."""


def _document(number: int) -> CleanDocument:
    sentences = [
        f"The machine of kind {number} needs part {n} to weigh its load, and the part wears out with every {n} turns."
        for n in range(_SENTENCES)
    ]
    raw = RawDocument(
        category="article",
        title=f"Machines of kind {number}",
        text=f"# Parts of kind {number}\n\n{' '.join(sentences)}",
        link=f"https://example.org/{number}",
        origin="https://example.org",
        platform="example.org",
        author="Ada Example",
        language="en",
    )
    return CleanDocument(
        **raw.model_dump(exclude={"origin", "etag", "last_modified", "collected_at"}),
        id=raw.id,
        author_id=raw.author_id,
        source_hash=raw.content_hash,
    )
