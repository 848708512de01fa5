"""Data sets for the library ``datasets``, read back with it; pushed to a hub on loopback."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_engineering.application.training.datasets.gates import Dropped
from llm_engineering.application.training.datasets.samples import Sample
from llm_engineering.application.training.datasets.store import manifest_of, read_dataset, write_dataset
from llm_engineering.domain.datasets import Split
from llm_engineering.domain.errors import (
    ConfigurationError,
    InvalidInputError,
    MissingDependencyError,
    StoreError,
)
from llm_engineering.infrastructure.hub.datasets import PUSHED, DatasetsHub, save_for_hub
from tests.fakes.dataset_hub import COMMIT, DatasetHub
from tests.unit.dataset_samples import document, instruct, preference, prose


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub is on loopback; what the machine's environment says of the real one must not matter."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def hub() -> Iterator[DatasetHub]:
    with DatasetHub() as running:
        yield running


def written(root: Path, *, hf: bool = False) -> Path:
    splits: dict[Split, list[Sample]] = {
        Split.TRAIN: [
            instruct(f"Frage {i}?", f"Ünï {i}", document(prose(i), f"d{i}"), split=Split.TRAIN)
            for i in range(3)
        ],
        Split.TEST: [],
    }
    manifest = manifest_of("instruct", "ada", splits, template="chatml", template_hash="0", seed=0, config={})
    out = [Dropped(splits[Split.TRAIN][0], "format", "private")]
    save = save_for_hub if hf else None
    return write_dataset(
        root, manifest, splits, out, card="---\nlicense: other\n---\n# Ada\n", report="<p>", save_for_hub=save
    )


def test_the_library_reads_what_was_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = written(tmp_path, hf=True)
    found = datasets.load_from_disk(str(folder / "hf"))
    assert {name: len(part) for name, part in found.items()} == {"train": 3, "validation": 0, "test": 0}
    first = read_dataset(folder).splits[Split.TRAIN][0].model_dump(mode="json")
    assert found["train"][0] == first
    assert found["test"].column_names == found["train"].column_names


def test_preference_pairs_are_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pair = preference(split=Split.TRAIN)
    save_for_hub(tmp_path / "hf", {Split.TRAIN: [pair]})
    assert datasets.load_from_disk(str(tmp_path / "hf"))["train"][0] == pair.model_dump(mode="json")


def test_without_the_library_the_group_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match="--with training"):
        save_for_hub(tmp_path / "hf", {})


def test_pushing_makes_a_private_repository_with_the_files(tmp_path: Path, hub: DatasetHub) -> None:
    folder = written(tmp_path)
    pushed = DatasetsHub("hf_right", hub.url).push(folder, "ada/twin-set")
    assert pushed.commit == COMMIT
    [made] = hub.created
    assert (made["name"], made["organization"], made["type"]) == ("twin-set", "ada", "dataset")
    assert made.get("private") is True or made.get("visibility") == "private"
    assert sorted(hub.files) == sorted(PUSHED)  # dropped samples stay here
    assert hub.files["train.jsonl"] == (folder / "train.jsonl").read_bytes()
    assert json.loads(hub.files["manifest.json"])["version"] == folder.name


def test_a_token_that_is_not_accepted_is_told_without_showing_it(tmp_path: Path, hub: DatasetHub) -> None:
    with pytest.raises(ConfigurationError, match=r"status 401.*HF_TOKEN") as caught:
        DatasetsHub("hf_wrong", hub.url).push(written(tmp_path), "ada/twin-set")
    assert "hf_wrong" not in str(caught.value)
    assert not hub.files


def test_a_hub_that_fails_or_is_not_there_is_told(tmp_path: Path, hub: DatasetHub) -> None:
    folder = written(tmp_path)
    hub.status = 418
    with pytest.raises(StoreError, match="status 418"):
        DatasetsHub("hf_right", hub.url).push(folder, "ada/twin-set")
    with pytest.raises(StoreError, match="cannot be reached"):
        DatasetsHub("hf_right", "http://127.0.0.1:9").push(folder, "ada/twin-set")


@pytest.mark.parametrize("name", ["ada", "a/b/c", "/x", "ada/--x--"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, hub: DatasetHub, name: str) -> None:
    with pytest.raises(InvalidInputError, match="is no repository"):
        DatasetsHub("hf_right", hub.url).push(written(tmp_path), name)


def test_a_folder_without_a_data_set_is_refused(tmp_path: Path, hub: DatasetHub) -> None:
    with pytest.raises(InvalidInputError, match="holds no data set"):
        DatasetsHub("hf_right", hub.url).push(tmp_path, "ada/x")
