"""Runs killed in the middle of each stage: the same command run again leaves what an unbroken run would have left."""

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.settings import QdrantEdgeSettings, Settings, load_settings
from tests.broken_runs import Fault, die, kill, run_command
from tests.pipelines.clocks import AFTER, BEFORE, END_TO_END, Run, run, similarities, state, write_source
from tests.services import own_mongo_server
from tools.services import LocalMongo

__all__ = ["own_mongo_server", "run"]

MODELS = Path(os.environ.get("MODELS_DIR", Path(__file__).resolve().parents[2] / "models"))
STORES = "llm_engineering.infrastructure.stores.mongo.warehouse"
EDGE = "llm_engineering.infrastructure.index.qdrant_edge"
COLLECT = f"{STORES}:MongoDocumentStore.upsert"
CLEAN = f"{STORES}:MongoCleanStore.upsert"
MARK = f"{STORES}:MongoCleanStore.set_groups"
EMBED = "llm_engineering.infrastructure.embedders.onnx:OnnxEmbedder.embed_documents"
CACHE = f"{STORES}:MongoEmbeddingCache.put_many"
WRITE = f"{EDGE}.writing:EdgeWriter.upsert"
PUBLISH = f"{EDGE}.generations:Generations.publish"
SWITCH = f"{EDGE}.generations:Path.replace"
"""The draft has its final name, and the pointer to it is not yet switched."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the table lies; the same for all tests, since documents are identified by it."""
    return tmp_path_factory.mktemp("source")


def finished(source: Path, folder: Path, server: LocalMongo, bodies: dict[int, str]) -> Settings:
    """Settings of a project in which an unbroken run over the bodies has ended."""
    environment = {
        "DATABASE_URI": server.uri,
        "DATABASE_NAME": f"test_{uuid4().hex[:12]}",
        "VECTOR_INDEX_PATH": str(folder / "index"),
        "MODELS_DIR": str(MODELS),
    }
    config = str(write_source(source, bodies))
    output = folder / "output.txt"
    ended = run_command("tools.run", *END_TO_END, config, output=output, environment=environment)
    assert ended.code == 0, ended.output
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return load_settings(None)


@pytest.fixture(scope="module")
def unbroken(
    source: Path, tmp_path_factory: pytest.TempPathFactory, mongo_server: LocalMongo
) -> Iterator[Resources]:
    """The stores after an unbroken run over what the source finally holds."""
    with open_resources(
        finished(source, tmp_path_factory.mktemp("unbroken"), mongo_server, AFTER)
    ) as resources:
        assert resources.index.count() > 2 * len(AFTER)
        assert len({document.duplicate_group for document in resources.warehouse.clean.stream()}) == 1 + 4
        yield resources


@pytest.fixture(scope="module")
def before(source: Path, tmp_path_factory: pytest.TempPathFactory, mongo_server: LocalMongo) -> Settings:
    """Settings of a project after an unbroken run over what the source held before."""
    return finished(source, tmp_path_factory.mktemp("before"), mongo_server, BEFORE)


def copy_stores(source: Settings, target: Settings) -> None:
    """Put what one project's stores hold into another's."""
    from pymongo import MongoClient

    with MongoClient[dict[str, Any]](target.database.uri.get_secret_value()) as client:
        old, new = client[source.database.name], client[target.database.name]
        for name in old.list_collection_names():
            if records := list(old[name].find()):
                new[name].insert_many(records)
    assert isinstance(source.vector_index, QdrantEdgeSettings)
    assert isinstance(target.vector_index, QdrantEdgeSettings)
    shutil.copytree(source.vector_index.path, target.vector_index.path)


def assert_as_unbroken(resources: Resources, unbroken: Resources) -> None:
    assert state(resources) == state(unbroken)
    assert similarities(resources) == pytest.approx(similarities(unbroken), abs=0.01)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(COLLECT, die, nth=2), marks=pytest.mark.nightly),
        pytest.param(Fault(EMBED, die, nth=2), marks=pytest.mark.nightly),
        Fault(WRITE, die, nth=3, after=True),
    ],
    ids=str,
)
def test_a_first_run_that_is_killed_ends_as_an_unbroken_one_when_run_again(
    run: Run, resources: Resources, source: Path, unbroken: Resources, fault: Fault
) -> None:
    config = str(write_source(source, AFTER))
    killed = run("tools.run", *END_TO_END, config, fault=fault)
    assert killed.code == -9, killed.output
    assert resources.index.count() == 0
    again = run("tools.run", *END_TO_END, config)
    assert again.code == 0, again.output
    assert_as_unbroken(resources, unbroken)


@pytest.mark.parametrize(
    "fault",
    [  # each costs a whole run; the quick suite breaks off the one at the point where most is at stake
        pytest.param(Fault(COLLECT, die, nth=2, after=True), marks=pytest.mark.nightly),
        pytest.param(Fault(CLEAN, die, nth=2), marks=pytest.mark.nightly),
        pytest.param(Fault(MARK, die, nth=2), marks=pytest.mark.nightly),
        pytest.param(Fault(EMBED, die), marks=pytest.mark.nightly),
        pytest.param(Fault(CACHE, die, nth=2, after=True), marks=pytest.mark.nightly),
        pytest.param(Fault(WRITE, die, nth=2), marks=pytest.mark.nightly),
        Fault(PUBLISH, die),
        pytest.param(Fault(SWITCH, die), marks=pytest.mark.nightly),
        pytest.param(Fault(PUBLISH, die, after=True), marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_an_update_that_is_killed_leaves_a_whole_index_and_ends_as_an_unbroken_one_when_run_again(
    project: Path,
    run: Run,
    resources: Resources,
    source: Path,
    before: Settings,
    unbroken: Resources,
    fault: Fault,
) -> None:
    copy_stores(before, resources.settings)
    old = sorted(resources.index.list_versions()), similarities(resources)
    config = str(write_source(source, AFTER))
    killed = run("tools.run", *END_TO_END, config, fault=fault)
    assert killed.code == -9, killed.output
    if fault.call == SWITCH:
        generations = project / "index" / "twin" / "generations"
        assert sorted(path.name for path in generations.iterdir()) == ["00000001", "00000002"]
    if fault.call == PUBLISH and fault.after:
        assert sorted(resources.index.list_versions()) == sorted(unbroken.index.list_versions())
    else:
        assert (sorted(resources.index.list_versions()), similarities(resources)) == old
    again = run("tools.run", *END_TO_END, config)
    assert again.code == 0, again.output
    assert_as_unbroken(resources, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [*(pytest.param(fault, marks=pytest.mark.nightly) for fault in ((COLLECT, 2), (CLEAN, 2))), (WRITE, 3)],
    ids=lambda fault: fault[0].rpartition(":")[2],
)
def test_a_run_whose_server_dies_says_which_task_starts_it_and_ends_as_an_unbroken_one_when_run_again(
    run: Run,
    project: Path,
    source: Path,
    own_mongo_server: LocalMongo,
    unbroken: Resources,
    monkeypatch: pytest.MonkeyPatch,
    fault: tuple[str, int],
) -> None:
    pid = own_mongo_server.start().pid
    assert pid is not None
    monkeypatch.setenv("DATABASE_URI", own_mongo_server.uri)
    monkeypatch.setenv("DATABASE_TIMEOUT_SECONDS", "1")
    config = str(write_source(source, AFTER))
    call, number = fault
    failed = run("tools.run", *END_TO_END, config, fault=Fault(call, partial(kill, pid), nth=number))
    assert failed.code == 1, failed.output
    assert f"✗ The data warehouse at {own_mongo_server.uri} does not answer" in failed.output
    assert "poe local-infrastructure-up" in failed.output
    assert "Traceback" not in failed.output
    own_mongo_server.start()
    again = run("tools.run", *END_TO_END, config)
    assert again.code == 0, again.output
    with open_resources(load_settings(None)) as resources:
        assert_as_unbroken(resources, unbroken)
