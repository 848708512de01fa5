"""Data sets on ZenML: real stores, the sample's articles, a model of known replies; what is written, and what stops a run."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.application.features.config import CollectRun, EndToEndData
from llm_engineering.application.ports import Message
from llm_engineering.application.training.datasets.config import (
    GenerateInstructDataset,
    GeneratePreferenceDataset,
    PreferenceDatasetRun,
)
from llm_engineering.application.training.datasets.store import read_dataset
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.domain.datasets import InstructSample, PreferenceSample, Split
from llm_engineering.domain.errors import InvalidInputError
from tests.conformance.warehouse_contract import drafted
from tests.fakes.llm import ScriptedLanguageModel
from tools.run import run_pipeline
from tools.run_config import read_run_config
from tools.sample_site import SampleSite

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def collect(count: int) -> None:
    """The first articles of the sample site, cleaned."""
    pages = ("chunking", "embeddings", "lora-and-qlora", "hybrid-search", "reranking", "quantisation")
    with SampleSite() as site:
        links = [f"{site.base_url}/articles/{page}.html" for page in pages[:count]]
        run = CollectRun.model_validate({"author": "Ada Winter", "links": links})
        run_pipeline("end_to_end_data", EndToEndData(collect=run))


@pytest.fixture
def articles(project: Path) -> Path:
    collect(6)
    return project


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Callable[[ScriptedLanguageModel], ScriptedLanguageModel]:
    """Puts a model in the place of the configured one."""

    def use(scripted: ScriptedLanguageModel) -> ScriptedLanguageModel:
        monkeypatch.setattr(Resources, "language_model", scripted)
        return scripted

    return use


def output(run: Any, step: str, name: str) -> Any:
    [artifact] = run.steps[step].outputs[name]
    return artifact.load()


def preference(**changes: Any) -> GeneratePreferenceDataset:
    read, _ = read_run_config(CONFIGS / "generate_preference_datasets.yaml", GeneratePreferenceDataset)
    values = {**read.preference.model_dump(), **changes}
    return GeneratePreferenceDataset(preference=PreferenceDatasetRun.model_validate(values))


def in_many_words(messages: Sequence[Message]) -> str:
    """About as long as the prompt asks for, and different for each prompt."""
    words = int(messages[0].content.partition("about ")[2].split()[0])
    topic = messages[-1].content.split()[-1].strip("?.“”")
    about = [f"Concerning {topic}, view {number} differs from view {number * 7}." for number in range(words)]
    text = ""
    for sentence in about:
        text += f"{sentence} "
        # A little longer or shorter than the author, by turns, as replies are.
        if len(text.split()) > words * (0.95 if len(topic) % 2 else 0.85):
            break
    return text


@pytest.mark.nightly
def test_the_shipped_configuration_makes_a_grounded_data_set_without_a_model(
    articles: Path, resources: Resources
) -> None:
    read, _ = read_run_config(CONFIGS / "generate_instruct_datasets.yaml", GenerateInstructDataset)
    run = run_pipeline("generate_instruct_dataset", read)
    report = output(run, "write_instruct_dataset", "dataset_report")
    dataset = read_dataset(articles / report["folder"])
    samples = [sample for part in dataset.splits.values() for sample in part]
    assert len(samples) >= 20
    documents = {document.id: document for document in resources.warehouse.clean.stream()}
    for sample in samples:
        assert isinstance(sample, InstructSample)
        span = sample.origin.span
        assert documents[sample.origin.document_id].text[span.start : span.end] == sample.answer
    by_split = [{s.origin.document_id for s in dataset.splits[split]} for split in Split]
    assert all(by_split)
    assert sum(map(len, by_split)) == len(set.union(*by_split))
    assert dataset.manifest.document_hashes.keys() == set.union(*by_split)
    artifact = output(run, "write_instruct_dataset", "instruct_dataset")
    assert json.loads((artifact / "manifest.json").read_text())["version"] == report["version"]
    assert run.steps["write_instruct_dataset"].run_metadata["version"] == report["version"]
    assert "<html" in output(run, "write_instruct_dataset", "dataset_page")
    again = run_pipeline("generate_instruct_dataset", read)
    assert output(again, "write_instruct_dataset", "dataset_report")["version"] == report["version"]


@pytest.mark.slow
def test_edited_drafts_become_pairs_of_the_data_set(project: Path, resources: Resources) -> None:
    collect(4)
    sources = list(resources.warehouse.clean.stream())
    for number, source in enumerate(sources):
        made = drafted(
            f"draft{number}", f"Draft {number} on {source.title} says what any model says of {number}."
        )
        [citation] = made.answer.citations
        passage = citation.passage.model_copy(update={"document_id": source.id})
        answer = made.answer.model_copy(
            update={
                "question": f"Write a post about {source.title}",
                "citations": (citation.model_copy(update={"passage": passage}),),
            }
        )
        draft = made.model_copy(update={"answer": answer})
        resources.warehouse.drafts.save(draft)
        # A character longer and shorter by turns: were all edits longer, the gate for lengths would leave some out.
        length = len(draft.text) + (1 if number % 2 else -1)
        mine = f"Mine on {source.title} begins where reader {number} is".ljust(length, "!")
        assert resources.warehouse.drafts.replace(draft.revise(mine, draft.created_at), 0)
    run = run_pipeline("generate_preference_dataset", preference(rejected=None))
    report = output(run, "write_preference_dataset", "dataset_report")
    dataset = read_dataset(project / report["folder"])
    triples = [sample for part in dataset.splits.values() for sample in part]
    assert len(triples) == len(sources) == 4
    for triple in triples:
        assert isinstance(triple, PreferenceSample)
        assert triple.provenance.made_by == "edit"
        assert triple.chosen.startswith("Mine on")
        assert triple.rejected.startswith("Draft ")
        assert triple.prompt.startswith("Write a post about")
        assert triple.origin.document_id in {source.id for source in sources}
    assert "what a person made of it" in (project / report["folder"] / "README.md").read_text()


@pytest.mark.slow
def test_a_killed_preference_run_goes_on_without_asking_anything_twice(
    articles: Path,
    resources: Resources,
    model: Callable[[ScriptedLanguageModel], ScriptedLanguageModel],
) -> None:
    class Killed(BaseException):
        """As a signal would end the process."""

    def dying(messages: Sequence[Message]) -> str:
        if len(first.calls) > 5:
            raise Killed
        return in_many_words(messages)

    first = model(ScriptedLanguageModel(default=dying))
    with pytest.raises(Killed):
        run_pipeline("generate_preference_dataset", preference())
    answered = [call.messages for call in first.calls if call.finished]
    assert 3 <= len(answered) <= 5
    second = model(ScriptedLanguageModel(default=in_many_words))
    run = run_pipeline("generate_preference_dataset", preference())
    asked = [call.messages for call in second.calls]
    lost = [messages for messages in asked if messages in answered]
    assert (
        len(lost) <= 1
    )  # the other request's reply may have come at the moment of the kill, and not been kept yet
    made = output(run, "make_preference_samples", "generation_report")
    assert made["replies_from_cache"] == len(answered) - len(lost)
    assert made["requests"] == len(asked)
    assert made["malformed_share"] == 0
    report = output(run, "write_preference_dataset", "dataset_report")
    dataset = read_dataset(articles / report["folder"])
    triples = [sample for part in dataset.splits.values() for sample in part]
    assert len(triples) >= 5
    documents = {document.id: document for document in resources.warehouse.clean.stream()}
    for triple in triples:
        assert isinstance(triple, PreferenceSample)
        span = triple.origin.span
        assert documents[triple.origin.document_id].text[span.start : span.end] == triple.chosen
        assert triple.rejected.startswith("Concerning ")
    assert dataset.manifest.prompt_hashes
    assert second.closed == 1


@pytest.mark.slow
def test_a_killed_jury_goes_on_without_asking_anything_twice(
    articles: Path,
    resources: Resources,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        """As a signal would end the process."""

    asked: list[tuple[str, str]] = []

    def jury(limit: int) -> list[ScriptedLanguageModel]:
        def reply(name: str, messages: Sequence[Message]) -> str:
            if len(asked) == limit:
                raise Killed
            asked.append((name, messages[-1].content))
            return json.dumps({"reason": "so", "score": 4 if name == "mild" else 2})

        judges = [
            ScriptedLanguageModel(default=partial(reply, name), name=name) for name in ("mild", "strict")
        ]
        monkeypatch.setattr(Resources, "make_judges", lambda _, names: judges[: len(names)])
        return judges

    read, _ = read_run_config(CONFIGS / "generate_instruct_datasets.yaml", GenerateInstructDataset)
    wanted = GenerateInstructDataset(
        instruct=read.instruct.model_copy(update={"judges": ("judge", "judge2")})
    )
    jury(9)
    with pytest.raises(Killed):
        run_pipeline("generate_instruct_dataset", wanted)
    judges = jury(10_000)
    run = run_pipeline("generate_instruct_dataset", wanted)
    report = output(run, "write_instruct_dataset", "dataset_report")
    assert report["unjudged"] == 0
    lost = len(asked) - len(set(asked))
    assert (
        lost <= 3
    )  # replies that came at the moment of the kill, of three other requests at most, and were not kept yet
    told = report["judging"]["judges"]
    assert sum(one["from_cache"] for one in told.values()) == 9 - lost
    assert told["mild"]["received"] == told["strict"]["received"] == len(set(asked)) / 2
    lines = (articles / report["folder"] / "judgements.jsonl").read_text().splitlines()
    assert [json.loads(line)["scores"] for line in lines] == [{"mild": 4, "strict": 2}] * len(lines)
    assert len(lines) == len(set(asked)) / 2
    assert "mild and strict: the same scores" in output(run, "write_instruct_dataset", "dataset_page")
    assert [judge.closed for judge in judges] == [1, 1]


@pytest.mark.slow
def test_an_empty_warehouse_is_told_apart_from_too_few_documents(project: Path) -> None:
    with pytest.raises(InvalidInputError, match="holds no clean documents"):
        run_pipeline("generate_instruct_dataset", GenerateInstructDataset())
    collect(1)
    with pytest.raises(InvalidInputError, match="cannot be split into"):
        run_pipeline("generate_instruct_dataset", GenerateInstructDataset())


def test_where_the_gates_drop_all_the_run_says_which_did(articles: Path) -> None:
    run = GenerateInstructDataset.model_validate(
        {"instruct": {"quality": {"lengths": {"answer_characters": [7_000, 8_000]}}}}
    )
    with pytest.raises(InvalidInputError, match=r"No sample is left to train on: \d+ were made.* length: "):
        run_pipeline("generate_instruct_dataset", run)
    assert not (articles / "data" / "datasets").exists()
