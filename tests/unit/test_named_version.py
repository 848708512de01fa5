"""Which registered version a name means, and that its files are the registered ones."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from llm_engineering.application.llm.chat_templates import load_template
from llm_engineering.application.training.finetune.model_folder import (
    GGUF,
    find_version,
    open_version,
    write_manifest,
)
from llm_engineering.domain.errors import InvalidInputError, ModelFileError
from llm_engineering.domain.models import ModelManifest, ModelVersion, Stage
from llm_engineering.infrastructure.shared.stored_files import StoredFiles
from tests.fakes.registry import FakeRegistry


def model(folder: Path, weights: str) -> ModelManifest:
    (folder / GGUF).parent.mkdir(parents=True, exist_ok=True)
    (folder / GGUF).write_text(weights)
    bare = ModelManifest(
        name="twin",
        base="toy",
        method="lora",
        stage="sft",
        template="chatml",
        template_hash=load_template("chatml").hash,
        dataset="toy@1",
        dataset_hash="0" * 64,
        config={},
        metrics={},
        files={},
        created_at=datetime.now(UTC),
    )
    return write_manifest(folder, bare, {})


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    found = FakeRegistry()
    for number in (1, 2, 3):
        folder = tmp_path / str(number)
        found.register(model(folder, f"weights {number}"), str(folder))
    return found


def test_a_name_alone_is_the_newest_until_one_is_in_production(registry: FakeRegistry) -> None:
    assert find_version(registry, "twin").number == 3
    registry.set_stage("twin", 2, Stage.PRODUCTION)
    assert find_version(registry, "twin").number == 2


def test_a_version_is_a_number_or_a_stage(registry: FakeRegistry) -> None:
    registry.set_stage("twin", 2, Stage.STAGING)
    assert find_version(registry, "twin:1").number == 1
    assert find_version(registry, "twin:staging").number == 2


@pytest.mark.parametrize("wanted", ["twin:9", "twin:newest", "twin:none", "other", "twin:production"])
def test_what_is_not_there_is_refused(registry: FakeRegistry, wanted: str) -> None:
    with pytest.raises(InvalidInputError):
        find_version(registry, wanted)


def test_a_version_is_served_from_the_files_that_were_registered(registry: FakeRegistry) -> None:
    version: ModelVersion = registry.get("twin", 1)
    assert open_version(StoredFiles(None, Path()), version).gguf.read_text() == "weights 1"
    model(Path(version.location), "others, with a manifest that fits them")
    with pytest.raises(ModelFileError, match="another model than the one registered as twin:1"):
        open_version(StoredFiles(None, Path()), version)
