"""A data set from made samples to its folder."""

import json
from pathlib import Path

import pytest

from llm_engineering.application.llm.budget import Budget
from llm_engineering.application.llm.judges import JudgeBatchConfig, Jury
from llm_engineering.application.training.datasets.build import Helpers, Target, build_dataset
from llm_engineering.application.training.datasets.config import (
    JudgeConfig,
    LengthBias,
    LengthBounds,
    QualityConfig,
)
from llm_engineering.application.training.datasets.samples import Sample
from llm_engineering.application.training.datasets.store import read_dataset
from llm_engineering.domain.datasets import Split
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.errors import InvalidInputError
from tests.fakes.llm import ScriptedLanguageModel
from tests.fakes.warehouse import FakeWarehouse
from tests.unit.dataset_samples import document, instruct, preference, prose

QUALITY = QualityConfig()


def world(count: int = 24) -> tuple[FakeWarehouse, list[CleanDocument]]:
    store = FakeWarehouse()
    documents = [document(prose(i), f"d{i}") for i in range(count)]
    store.clean.upsert(documents)
    return store, documents


def words(texts: object) -> list[int]:
    assert isinstance(texts, list)
    return [len(text.split()) for text in texts]


def target(root: Path, name: str = "ada") -> Target:
    return Target(root, name, "chatml", seed=0, config={"author": "Ada"})


async def test_a_folder_comes_of_samples_and_a_second_run_gives_the_same(tmp_path: Path) -> None:
    store, documents = world()
    samples: list[Sample] = [instruct(f"What of {i}?", of=d) for i, d in enumerate(documents)]
    samples.append(instruct("What of gardens?", "tiny", documents[0]))
    built = await build_dataset(samples, store.clean, QUALITY, target(tmp_path), Helpers(count=words))
    found = read_dataset(built.folder)
    assert found.manifest == built.manifest
    assert sum(built.manifest.counts.values()) == 24
    assert built.to_metadata()["dropped_by_gate"] == {"length": 1}
    assert built.to_metadata()["samples_made"] == 25
    dropped = [json.loads(line) for line in (built.folder / "dropped.jsonl").read_text().splitlines()]
    assert [(item["gate"], item["sample"]["answer"]) for item in dropped] == [("length", "tiny")]
    assert documents[0].link in (built.folder / "README.md").read_text()
    assert (built.folder / "report.html").read_text() == built.page
    again = await build_dataset(samples[::-1], store.clean, QUALITY, target(tmp_path), Helpers(count=words))
    assert again.manifest.version == built.manifest.version


async def test_tokens_are_counted_in_the_chat_template(tmp_path: Path) -> None:
    store, documents = world(6)
    samples = [instruct(f"What of {i}?", of=d) for i, d in enumerate(documents)]
    bounds = QualityConfig(lengths=LengthBounds(max_tokens=100))
    with pytest.raises(InvalidInputError, match=r"No sample is left to train on: 6 were made.*length: 6"):
        await build_dataset(samples, store.clean, bounds, target(tmp_path), Helpers(count=words))
    assert not list(tmp_path.iterdir())  # noqa: ASYNC240


async def test_an_instruct_set_s_test_part_is_kept_from_preference_training(tmp_path: Path) -> None:
    store, documents = world()
    samples = [instruct(f"What of {i}?", of=d) for i, d in enumerate(documents)]
    first = await build_dataset(samples, store.clean, QUALITY, target(tmp_path))
    held = {s.origin.document_id for s in first.curated.splits[Split.TEST]}
    # Another seed puts other documents into training; those the instruct set is tested with must leave it.
    pairs = [preference(f"What of {i}?", rejected=prose(100 + i), of=d) for i, d in enumerate(documents)]
    loose = QualityConfig(length_bias=LengthBias(on_exceed="report"))
    other = Target(tmp_path, "pairs", "chatml", seed=5)
    second = await build_dataset(pairs, store.clean, loose, other)
    train = {s.origin.document_id for s in second.curated.splits[Split.TRAIN]}
    assert held
    assert not held & train
    assert any(item.reason == "overlaps with ada/test" for item in second.curated.dropped)


async def test_evaluation_files_are_kept_out_of_all_splits(tmp_path: Path) -> None:
    store, documents = world()
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps({"question": "Why?", "answer": documents[3].text[:300]}) + "\n")
    samples = [instruct(f"What of {i}?", of=d) for i, d in enumerate(documents)]
    built = await build_dataset(
        samples, store.clean, QUALITY, target(tmp_path / "sets"), evaluation_files=[file]
    )
    [dropped] = built.curated.dropped
    assert (dropped.sample.origin.document_id, dropped.reason) == (
        documents[3].id,
        "overlaps with questions.jsonl",
    )


async def test_judges_are_asked_only_about_what_came_through(tmp_path: Path) -> None:
    store, documents = world(8)
    samples = [instruct(f"What of {i}?", of=d) for i, d in enumerate(documents)]
    samples.append(instruct("What of tiny?", "tiny", documents[0]))
    model = ScriptedLanguageModel(default='{"reason": "so", "score": 4}')
    jury = Jury([model], store, JudgeBatchConfig(), stage="judge")
    built = await build_dataset(samples, store.clean, QUALITY, target(tmp_path), Helpers(jury=jury))
    assert len(model.calls) == 8
    assert "Judged by scripted" in built.page
    assert built.to_metadata()["judging"]["judges"]["scripted"]["received"] == 8
    lines = [json.loads(line) for line in (built.folder / "judgements.jsonl").read_text().splitlines()]
    assert [line["scores"] for line in lines] == [{"scripted": 4}] * 8


async def test_what_no_judge_spoke_of_is_kept_and_named_or_dropped_as_configured(tmp_path: Path) -> None:
    store, documents = world(20)
    samples = [instruct(f"What of {i}?", of=d) for i, d in enumerate(documents)]
    model = ScriptedLanguageModel(default='{"reason": "so", "score": 4}')
    asking = JudgeBatchConfig(concurrency=1, budget=Budget(tokens=4_000))
    jury = Jury([model], store, asking, stage="judge")
    kept = await build_dataset(samples, store.clean, QUALITY, target(tmp_path), Helpers(jury=jury))
    judged = kept.judged
    assert judged is not None
    asked = len(model.calls)
    assert 0 < asked < 20
    assert judged.jury.tokens <= 4_000
    assert "budget of 4,000 tokens is spent" in judged.jury.stopped
    assert sum(kept.manifest.counts.values()) == 20
    assert kept.to_metadata()["unjudged"] == 20 - asked
    lines = [json.loads(line) for line in (kept.folder / "judgements.jsonl").read_text().splitlines()]
    told = {line["sample"] for line in lines if line["unjudged"] == "the budget was spent"}
    assert told == set(judged.unjudged)
    assert "the budget was spent" in kept.page

    strict = QualityConfig(judge=JudgeConfig(on_missing="drop"))
    jury = Jury([model], store, asking, stage="judge")
    left = await build_dataset(samples, store.clean, strict, target(tmp_path, "strict"), Helpers(jury=jury))
    dropped = [
        item for item in left.curated.dropped if item.reason == "no judge's opinion: the budget was spent"
    ]
    # What the first run paid for came from the cache, so the same budget reached further.
    assert len(dropped) == 20 - len(model.calls) < 20 - asked


async def test_a_damaged_neighbour_does_not_stop_a_new_data_set(tmp_path: Path) -> None:
    store, documents = world(8)
    broken = tmp_path / "old" / "v1"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")
    samples = [instruct(f"What of {i}?", of=d) for i, d in enumerate(documents)]
    built = await build_dataset(samples, store.clean, QUALITY, target(tmp_path))
    assert built.manifest.counts[Split.TRAIN]


async def test_no_samples_and_too_few_documents_are_told(tmp_path: Path) -> None:
    store, documents = world(1)
    with pytest.raises(InvalidInputError, match="no samples"):
        await build_dataset([], store.clean, QUALITY, target(tmp_path))
    with pytest.raises(InvalidInputError, match="Collect more documents"):
        await build_dataset([instruct(of=documents[0])], store.clean, QUALITY, target(tmp_path))
