"""The data card: ``README.md`` of a data set, for readers and for a hub."""

import json
from collections.abc import Mapping
from typing import Any

from llm_engineering.application.training.datasets.curate import Curated
from llm_engineering.application.training.datasets.report import lint_rows, table_rows
from llm_engineering.application.training.datasets.statistics import Statistics
from llm_engineering.domain.datasets import DatasetManifest, Split

_LISTED_DOCUMENTS = 200
_WHAT = {
    "instruct": "Instructions with answers, to fine-tune a language model on one author's writing.",
    "preference": "Prompts with a chosen answer (the author's own words, verbatim, or what a person made of a draft) and a "
    "rejected one (a model's), for DPO.",
}


def data_card(
    manifest: DatasetManifest,
    curated: Curated[Any],
    figures: Statistics,
    links: Mapping[str, str] | None = None,
) -> str:
    """Return markdown with the header that hubs read.

    Args:
        manifest: what the data set is.
        curated: its samples, and what was dropped.
        figures: of :func:`~llm_engineering.application.training.datasets.statistics.compute_statistics`.
        links: where each document can be read, by its id.
    """
    parts = [
        _header(manifest, figures),
        f"# {manifest.name}",
        f"{_WHAT[manifest.kind]} Version `{manifest.version}`, derived from its samples.",
        "## Where it comes from",
        f"Writing of {_listed(figures.authors)}: {_listed(figures.categories)}. Languages: {_listed(figures.languages)}. Each "
        "sample names its document, the document's content hash, and the characters that its answer was made from.",
        "## How it was made",
        f"Made by {_listed(figures.made_by)}; language models that wrote a part: {_listed(figures.models)}. "
        + (
            f"Prompts: {', '.join(f'`{h}`' for h in manifest.prompt_hashes)}. "
            if manifest.prompt_hashes
            else ""
        )
        + f"Measured with the chat template `{manifest.template}` (`{manifest.template_hash}`); seed {manifest.seed}.",
        "## What is in it",
        _table(
            ["Split", "Samples", "Documents"],
            [[split, f"{figures.samples[split]:,}", f"{figures.documents[split]:,}"] for split in Split],
        ),
        "Splits go by document: no document, and no near-duplicate of one, is in two of them.",
        "## Gates",
        f"{curated.made:,} samples were made; {len(curated.kept):,} are kept. Those dropped stand in `dropped.jsonl`, with "
        "the reason.",
        _table(["Gate", "Samples", "Dropped", "Kept", "Why"], list(table_rows(curated.counts))),
    ]
    if curated.lint_after is not None:
        figures_of_pairs = [list(row) for row in lint_rows(curated.lint_after)]
        parts += ["## Lengths of chosen and rejected", _table(["Figure", "Value"], figures_of_pairs)]
    parts += ["## Limits", *_limits(manifest, figures), "## Licence", _LICENCE, "## Lineage"]
    parts += _lineage(manifest, links or {})
    parts += ["## Configuration", f"```json\n{json.dumps(manifest.config, indent=2, default=str)}\n```"]
    return "\n\n".join(parts) + "\n"


_LICENCE = (
    "The texts are their authors'. This data set gives no right to them: before it is shared, ask those who hold the rights, "
    "and set `license` in this file's header to what they allow. Answers by language models may be bound by the terms of "
    "those models."
)


def _header(manifest: DatasetManifest, figures: Statistics) -> str:
    languages = [name for name in figures.languages if len(name) == 2]
    files = [f"  - split: {split}\n    path: {split}.jsonl" for split in Split if manifest.counts.get(split)]
    lines = ["---", "license: other", f"pretty_name: {json.dumps(manifest.name)}"]
    if languages:
        lines += ["language:", *(f"- {name}" for name in languages)]
    lines += ["tags:", f"- {manifest.kind}", "- llm-twin"]
    if files:
        # Named one by one, so that what was dropped is not taken for samples.
        lines += ["configs:", "- config_name: default", "  data_files:", *files]
    return "\n".join([*lines, "---"])


def _limits(manifest: DatasetManifest, figures: Statistics) -> list[str]:
    said = [
        "- It holds what its authors wrote, with their errors and opinions; nothing was checked for truth.",
        "- Near-duplicates are told by common word sequences: texts of fewer than 50 words are compared exactly only, and "
        "the same thought in other words is a duplicate only where the gate for semantic duplicates ran.",
    ]
    documents = sum(figures.documents.values())
    if documents < 20:
        said.append(
            f"- It comes from {documents} document(s): figures on its test split have wide intervals."
        )
    if manifest.kind == "preference":
        said.append(
            "- `rejected` is what one model wrote; a model trained on it learns to differ from that model."
        )
    if "edit" in figures.made_by:
        said.append(
            "- `chosen` of an edited draft is what a person made of it, not the author's published text."
        )
    if "back translation" in figures.made_by:
        said.append(
            "- Back-translated instructions are made by rule from headings and text, and sound alike."
        )
    return ["\n".join(said)]


def _lineage(manifest: DatasetManifest, links: Mapping[str, str]) -> list[str]:
    shown = sorted(manifest.document_hashes.items())[:_LISTED_DOCUMENTS]
    table = _table(
        ["Document", "Link", "Content hash"],
        [[name_document(manifest, key), links.get(key, ""), f"`{value[:12]}`"] for key, value in shown],
    )
    more = len(manifest.document_hashes) - len(shown)
    return [table, f"{more:,} more stand in `manifest.json`."] if more > 0 else [table]


def name_document(manifest: DatasetManifest, document_id: str) -> str:
    """Return what a reader knows a document by: its title; without one, its id."""
    return manifest.document_titles.get(document_id) or f"`{document_id}`"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{_cell(name)} ({count:,})" for name, count in counts.items()) or "nothing"


def _table(columns: list[str], lines: list[list[str]]) -> str:
    header = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return "\n".join([*header, *(f"| {' | '.join(map(_cell, line))} |" for line in lines)])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
