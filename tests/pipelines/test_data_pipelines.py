"""The data pipelines on ZenML, with real embedded stores: what they leave, what they report, and that they can be repeated."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.features.config import CollectRun, EndToEndData, FeatureEngineering
from llm_engineering.application.inference.answer import answer
from llm_engineering.application.inference.search import as_passages, retrieve
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.domain.errors import StoreUnavailableError, TooManyFailuresError
from llm_engineering.domain.retrieval import Answer, MetadataFilter, Passage, Query
from tests.fakes.llm import ScriptedLanguageModel
from tools.run import run_pipeline
from tools.sample_site import SampleSite


def table(folder: Path, rows: list[dict[str, str]]) -> Path:
    path = folder / "notes.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def notes(folder: Path, *texts: str) -> EndToEndData:
    path = table(
        folder, [{"key": str(i), "headline": f"Note {i}", "body": text} for i, text in enumerate(texts)]
    )
    column_map = {"id": "key", "title": "headline", "text": "body"}
    link = {"url": str(path), "category": "post", "options": {"column_map": column_map}}
    return EndToEndData(collect=CollectRun.model_validate({"author": "Ada Winter", "links": [link]}))


def report(run: Any, step: str, name: str) -> dict[str, Any]:
    [artifact] = run.steps[step].outputs[name]
    loaded = artifact.load()
    assert isinstance(loaded, dict)
    return loaded


FIRST = "Overlap repeats the last sentences of a chunk at the start of the next one, so no thought is cut in half."
SECOND = "A cross-encoder reads question and passage together, which is slow and accurate."


def test_links_become_an_index_that_answers(project: Path, resources: Resources) -> None:
    run = run_pipeline("end_to_end_data", notes(project, FIRST, SECOND))
    assert report(run, "collect_links", "collection_report")["documents_created"] == 2
    assert report(run, "index_documents", "index_report")["embedded"] == 2
    hits = retrieve(Query.ask("What does overlap repeat?"), resources.index, resources.embedder)
    assert "Overlap repeats" in hits[0].chunk.text
    assert hits[0].chunk.author == "Ada Winter"


def test_metadata_of_the_steps_is_in_zenml(project: Path) -> None:
    run = run_pipeline("end_to_end_data", notes(project, FIRST))
    metadata = run.steps["collect_links"].run_metadata
    assert metadata["documents_created"] == 1
    [markdown] = run.steps["collect_links"].outputs["collection_table"]
    assert "notes.jsonl" in markdown.load()


def test_a_second_run_changes_nothing_and_embeds_nothing(project: Path, resources: Resources) -> None:
    run_pipeline("end_to_end_data", notes(project, FIRST, SECOND))
    before = sorted(resources.index.list_versions())
    run = run_pipeline("end_to_end_data", notes(project, FIRST, SECOND))
    assert report(run, "collect_links", "collection_report")["documents_unchanged"] == 2
    assert report(run, "index_documents", "index_report")["embedded"] == 0
    assert sorted(resources.index.list_versions()) == before


def test_what_changes_and_what_goes_reaches_the_index(project: Path, resources: Resources) -> None:
    run_pipeline("end_to_end_data", notes(project, FIRST, SECOND))
    run = run_pipeline("end_to_end_data", notes(project, "Quantisation stores weights in fewer bits."))
    collected = report(run, "collect_links", "collection_report")
    assert (collected["documents_updated"], collected["documents_removed"]) == (1, 1)
    texts = [
        hit.chunk.text
        for hit in retrieve(
            Query.ask("overlap cross-encoder bits", k=10), resources.index, resources.embedder
        )
    ]
    assert len(texts) == 1
    assert "Quantisation" in texts[0]


@pytest.mark.slow
def test_features_alone_rebuild_a_lost_index_from_the_warehouse_without_embedding(
    project: Path, resources: Resources
) -> None:
    run_pipeline("end_to_end_data", notes(project, FIRST, SECOND))
    shutil.rmtree(project / "index")
    run = run_pipeline("feature_engineering", FeatureEngineering())
    assert report(run, "index_documents", "index_report")["embedded"] == 0
    assert resources.index.count() == 2


def test_a_run_that_loses_too_much_fails_with_the_reasons(project: Path, resources: Resources) -> None:
    links = [str(project / "missing.csv"), "http://127.0.0.1:9/nothing-listens-here"]
    parameters = EndToEndData(
        collect=CollectRun.model_validate({"author": "A", "links": links, "max_failed_share": 0.5})
    )
    with pytest.raises(TooManyFailuresError, match=r"(?s)2 of 2 links.*missing\.csv"):
        run_pipeline("end_to_end_data", parameters)
    assert resources.warehouse.dead_letters.count() == 2


def test_without_a_warehouse_the_task_that_starts_it_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URI", "mongodb://127.0.0.1:9")
    monkeypatch.setenv("DATABASE_TIMEOUT_SECONDS", "1")
    with pytest.raises(StoreUnavailableError):
        run_pipeline("feature_engineering", FeatureEngineering())


@pytest.mark.slow
def test_the_sample_site_is_collected_filtered_and_answered(project: Path, resources: Resources) -> None:
    with SampleSite() as site:
        link = {"url": f"{site.base_url}/feed.xml", "options": {"author_from_page": True, "max_items": 6}}
        collect = CollectRun.model_validate({"author": "Ada Winter", "links": [link]})
        run = run_pipeline("end_to_end_data", EndToEndData(collect=collect))
    assert report(run, "collect_links", "collection_report")["documents_created"] == 6
    authors = resources.index.count_values("author")
    assert set(authors) == {"Ada Winter", "Ben Okafor"}
    for author in authors:
        query = Query.ask("Why?", filter=MetadataFilter(authors=(author,)))
        assert {hit.chunk.author for hit in retrieve(query, resources.index, resources.embedder)} == {author}
    hits = retrieve(
        Query.ask("Which team won the football world cup in 1998?"), resources.index, resources.embedder
    )
    answered = asyncio.run(finished("?", as_passages(hits), ScriptedLanguageModel(["Invented."])))
    assert answered.abstained


async def finished(question: str, passages: list[Passage], model: ScriptedLanguageModel) -> Answer:
    pieces = [piece async for piece in answer(question, passages, model)]
    assert pieces[-1].answer is not None
    return pieces[-1].answer
