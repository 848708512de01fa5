"""Files that machines share: what one publishes the other finds, by content, whole, and written once."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from llm_engineering.application.training.finetune.dpo import DpoRun
from llm_engineering.bootstrap.training import find_start
from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError, ModelFileError
from llm_engineering.infrastructure.shared.stored_files import StoredFiles
from tests.conformance.registry_contract import NOW, manifest
from tests.fakes.registry import FakeRegistry

NAMES = ["adapter/weights.bin", "model.json"]


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder that both machines mount; and one behind a URI, as fsspec sees a bucket."""
    if request.param == "folder":
        yield str(tmp_path / "mounted")
        return
    import fsspec

    system = fsspec.filesystem("memory")
    yield "memory://bucket/shared"
    system.store.clear()


def model(folder: Path, weights: str = "weights") -> Path:
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "weights.bin").write_text(weights)
    (folder / "model.json").write_text("{}")
    return folder


def test_what_one_machine_publishes_the_other_fetches(root: str, tmp_path: Path) -> None:
    here, there = StoredFiles(root, tmp_path / "a"), StoredFiles(root, tmp_path / "b")
    location = here.publish(model(tmp_path / "made"), "twin/sft-1", NAMES)
    assert location == f"{root}/twin/sft-1"
    fetched = there.fetch(location)
    assert (fetched / "adapter" / "weights.bin").read_text() == "weights"
    assert there.fetch(location) == fetched, "a second time nothing is fetched"
    assert here.publish(tmp_path / "made", "twin/sft-1", NAMES) == location


def test_files_beside_a_model_are_read_as_they_now_stand(root: str, tmp_path: Path) -> None:
    here, there = StoredFiles(root, tmp_path / "a"), StoredFiles(root, tmp_path / "b")
    location = here.publish(model(tmp_path / "made"), "twin/sft-1", NAMES)
    assert there.read(location, "evaluation.json") is None
    for text in (b"first", b"second"):
        here.write(location, "evaluation.json", text)
        assert there.read(location, "evaluation.json") == text


def test_preferences_are_trained_from_the_newest_sft_model_that_another_machine_made(
    root: str, tmp_path: Path
) -> None:
    here, there = StoredFiles(root, tmp_path / "a"), StoredFiles(root, tmp_path / "b")
    registry, run = FakeRegistry(there), DpoRun(name="twin", output_dir=tmp_path / "own")
    with pytest.raises(ConfigurationError, match="SHARED_FILES_URI"):
        find_start(run, registry)
    for weights, minutes, kind in (("a", 0, "sft"), ("c", 9, "sft"), ("b", 5, "sft"), ("d", 20, "dpo")):
        location = here.publish(model(tmp_path / weights, weights), f"twin/{kind}-{weights}", NAMES)
        made = manifest(weights, stage=kind, created_at=NOW + timedelta(minutes=minutes))
        registry.register(made, location)
    start = find_start(run, registry)
    assert (start / "adapter" / "weights.bin").read_text() == "c"
    assert find_start(run.model_copy(update={"sft": tmp_path / "a"}), registry) == tmp_path / "a"


def test_a_half_published_model_is_not_fetched(tmp_path: Path) -> None:
    import fsspec

    files = StoredFiles("memory://bucket/half", tmp_path / "a")
    fsspec.filesystem("memory").pipe_file("/bucket/half/twin/sft-1/adapter/weights.bin", b"weights")
    with pytest.raises(ModelFileError, match=r"no whole model .*no model\.json"):
        files.fetch("memory://bucket/half/twin/sft-1")
    assert list((tmp_path / "a").iterdir()) == []


def test_what_is_missing_is_pulled_and_what_is_there_stays(root: str, tmp_path: Path) -> None:
    here, there = StoredFiles(root, tmp_path / "a"), StoredFiles(root, tmp_path / "b")
    here.publish(model(tmp_path / "made"), "datasets/notes/1", NAMES)
    own = tmp_path / "own"
    (own / "notes" / "1").mkdir(parents=True)
    (own / "notes" / "1" / "model.json").write_text("mine")
    there.pull("datasets", own)
    assert (own / "notes" / "1" / "model.json").read_text() == "mine"
    assert (own / "notes" / "1" / "adapter" / "weights.bin").read_text() == "weights"


def test_with_nothing_shared_all_stays_in_its_folder(tmp_path: Path) -> None:
    files = StoredFiles(None, tmp_path / "cache")
    folder = model(tmp_path / "made")
    assert not files.shared
    assert files.publish(folder, "twin/sft-1", NAMES) == str(folder)
    assert files.fetch(str(folder)) == folder
    files.pull("datasets", tmp_path / "own")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


def test_an_unknown_kind_of_place_and_a_missing_package_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="SHARED_FILES_URI"):
        StoredFiles("nothing://x", tmp_path).publish(model(tmp_path / "made"), "a/b", NAMES)
    with pytest.raises(MissingDependencyError, match="gcsfs"):
        StoredFiles("gs://bucket", tmp_path).read("gs://bucket/a/b", "model.json")
