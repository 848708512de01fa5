"""Settings of a whole project in a temporary folder: its own warehouse, index and ZenML home, tiny fast models."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from zenml.client import Client

from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.infrastructure.registry.zenml import ZenMLRegistry
from llm_engineering.settings import load_settings
from tests.services import mongo_database, mongo_server
from tools.services import LocalMongo

__all__ = ["mongo_database", "mongo_server"]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mongo_server: LocalMongo, mongo_database: str
) -> Path:
    """The environment of a project in ``tmp_path``, as a user would set it; ``models/`` is shared with the checkout."""
    models = Path(os.environ.get("MODELS_DIR", ROOT / "models"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URI", mongo_server.uri)
    monkeypatch.setenv("DATABASE_NAME", mongo_database)
    monkeypatch.setenv("VECTOR_INDEX_PATH", str(tmp_path / "index"))
    monkeypatch.setenv("MODELS_DIR", str(models))
    monkeypatch.setenv("CRAWLER_PER_HOST_DELAY_SECONDS", "0")
    return tmp_path


@pytest.fixture
def resources(project: Path) -> Iterator[Resources]:
    """The stores of the project, to look at what a run has left in them."""
    with open_resources(load_settings(None)) as resources:
        yield resources


@pytest.fixture
def empty_registry() -> Iterator[ZenMLRegistry]:
    """The registry without the versions that tests before left in this process's ZenML home; emptied again afterwards."""

    def clear() -> None:
        for model in Client().list_models(size=100).items:
            Client().delete_model(model.id)

    clear()
    yield ZenMLRegistry()
    clear()
