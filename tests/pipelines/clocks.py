"""A small source, the command that collects and indexes it, and what of it a reader of the stores can see."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_engineering.application.ports import SearchRequest
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.domain.retrieval import SearchMode
from tests.broken_runs import Ended, Fault, run_command

END_TO_END = ("end-to-end-data", "--config")
COLUMN_MAP = {"id": "key", "title": "headline", "text": "body"}

Run = Callable[..., Ended]


def text(number: int, twin_of: int | None = None) -> str:
    """Three paragraphs under headings; with ``twin_of`` nearly those of another."""
    kind = number if twin_of is None else twin_of
    parts = [
        f"## Part {part} of clock {kind}\n\n"
        + " ".join(
            f"The clock of tower {kind} loses {(kind * part + line) % 17} seconds in week {line}."
            for line in range(5)
        )
        for part in range(1, 4)
    ]
    return "\n\n".join(parts) + ("" if twin_of is None else f" Seen again in year {number}.")


BEFORE = {i: text(i, {3: 2, 6: 5, 9: 8}.get(i)) for i in range(11)}
"""Eleven documents, three of which repeat another one."""
AFTER = {
    **{i: body for i, body in BEFORE.items() if i != 4},
    1: text(101),
    6: text(106),
    12: text(12),
    13: text(13, 12),
    14: text(14, 7),
}
"""One gone, one changed, one no longer a repetition, three new, two of which repeat others."""


def write_source(folder: Path, bodies: dict[int, str]) -> Path:
    """A table of the bodies, and the configuration that collects it in small batches."""
    table = folder / "clocks.jsonl"
    rows = [{"key": str(i), "headline": f"Clock {i}", "body": body} for i, body in sorted(bodies.items())]
    table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    link = {"url": str(table), "category": "post", "options": {"column_map": COLUMN_MAP}}
    features = {"batch_size": 2, "window_chunks": 8, "chunking": {"max_tokens": 96}}
    parameters = {"collect": {"author": "Ada Byron", "links": [link], "batch_size": 4}, "features": features}
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump({"parameters": parameters}), encoding="utf-8")
    return config


@pytest.fixture
def run(project: Path) -> Run:
    """Runs a command of ours in the project, in a process of its own."""

    def run(module: str, *arguments: str, fault: Fault | None = None, **environment: str) -> Ended:
        output = project / "output.txt"
        return run_command(module, *arguments, output=output, environment=environment, fault=fault)

    return run


def state(resources: Resources) -> dict[str, Any]:
    """Everything that a reader of the stores can see, but for the time of the run."""
    warehouse, index = resources.warehouse, resources.index
    parents = [f"{document}:{number}" for document, _ in index.list_versions() for number in range(20)]
    chunks = (
        [chunk for passage in index.read_passages(parents).values() for chunk in passage]
        if index.count()
        else []
    )
    return {
        "users": sorted(user.full_name for user in warehouse.users.all()),
        "documents": [
            document.model_copy(update={"collected_at": None}) for document in warehouse.documents.stream()
        ],
        "clean": list(warehouse.clean.stream()),
        "dead letters": [(letter.stage, letter.source) for letter in warehouse.dead_letters.stream()],
        "versions": sorted(index.list_versions()),
        "chunks": sorted(chunks, key=lambda chunk: chunk.id),
        "count": index.count(),
    }


def similarities(resources: Resources) -> dict[str, float]:
    """The cosine of every chunk to a question: says that each has its own vector."""
    vector = resources.embedder.embed_queries(["How much does the clock of tower 7 lose?"])[0]
    request = SearchRequest("clock", vector, k=500, mode=SearchMode.DENSE)
    [hits] = resources.index.search([request], resources.embedder.fingerprint)
    return {hit.chunk.id: hit.score for hit in hits}
