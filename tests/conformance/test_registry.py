"""The contract of the model registry, on ZenML's store and on the fake; and what ZenML adds: processes, limits, links."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_engineering.application.ports import ModelRegistry
from llm_engineering.domain.errors import InvalidInputError, StoreError, StoreUnavailableError
from llm_engineering.domain.models import Stage
from llm_engineering.infrastructure.registry.local_store import read_store
from llm_engineering.infrastructure.registry.zenml import ZenMLRegistry
from tests.conformance.registry_contract import RegistryContract, decision, manifest, stages
from tests.fakes.registry import FakeRegistry

ROOT = Path(__file__).resolve().parents[2]
PROMOTE = """
import sys, time
from pathlib import Path
from llm_engineering.application.training.registry.promotion import promote
from llm_engineering.domain.errors import PromotionRefusedError
from llm_engineering.infrastructure.registry.zenml import ZenMLRegistry
registry, number, folder = ZenMLRegistry(), int(sys.argv[1]), Path(sys.argv[2])
registry.list_versions()
(folder / f"ready{number}").touch()
while len(list(folder.glob("ready*"))) < 2:
    time.sleep(0.01)
version, _ = promote(registry, "twin", number, force="race")
print(version.label)
"""


class TestFakeRegistry(RegistryContract):
    @pytest.fixture
    def registry(self) -> ModelRegistry:
        return FakeRegistry()


@pytest.fixture
def zenml_registry() -> Iterator[ZenMLRegistry]:
    """An empty one, in the run's own ZenML home."""
    from zenml.client import Client

    client = Client()

    def clear() -> None:
        for model in client.list_models(size=100).items:
            client.delete_model(model.id)

    clear()
    yield ZenMLRegistry()
    clear()


@pytest.mark.timeout(300)
class TestZenMLRegistry(RegistryContract):
    @pytest.fixture
    def registry(self, zenml_registry: ZenMLRegistry) -> ModelRegistry:
        return zenml_registry

    def test_another_registry_sees_what_one_has_registered(self, zenml_registry: ZenMLRegistry) -> None:
        version = zenml_registry.register(manifest(), "somewhere")
        assert ZenMLRegistry().get("twin") == version

    @pytest.mark.slow
    def test_two_processes_that_promote_at_once_leave_one_in_production(
        self, zenml_registry: ZenMLRegistry, tmp_path: Path
    ) -> None:
        for weights in "ab":
            zenml_registry.register(manifest(weights), "somewhere")
        running = [
            subprocess.Popen(
                [sys.executable, "-c", PROMOTE, number, str(tmp_path)],
                cwd=ROOT,
                env={**os.environ, "ZENML_LOGGING_VERBOSITY": "CRITICAL"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in "12"
        ]
        outputs = [process.communicate(timeout=240) for process in running]
        assert [process.returncode for process in running] == [0, 0], outputs
        assert sorted(stages(zenml_registry).values()) == ["archived", "production"]
        acts = zenml_registry.list_decisions("twin")
        winner = zenml_registry.get("twin", Stage.PRODUCTION).label
        assert acts[0].candidate == winner, "one after the other: the last one recorded is in production"
        assert acts[0].production == acts[1].candidate, "and it saw the first"

    def test_whoever_waits_too_long_is_told(self, zenml_registry: ZenMLRegistry) -> None:
        zenml_registry.register(manifest(), "somewhere")
        impatient = ZenMLRegistry(lock_seconds=0.05)
        with zenml_registry.hold_lock(), pytest.raises(StoreError, match="Nothing was changed"):
            impatient.set_stage("twin", 1, Stage.STAGING)
        assert stages(zenml_registry) == {1: "none"}

    def test_what_zenml_would_silently_drop_is_refused(self, zenml_registry: ZenMLRegistry) -> None:
        many = {f"part-{number}": "a" * 64 for number in range(1000)}
        with pytest.raises(InvalidInputError, match="65,535"):
            zenml_registry.register(manifest(files=many), "somewhere")
        assert zenml_registry.list_versions() == []
        zenml_registry.register(manifest(), "somewhere")
        with pytest.raises(InvalidInputError, match="'card' takes"):
            zenml_registry.annotate("twin", 1, {"card": "x" * 70_000})

    def test_the_registrys_own_keys_cannot_be_overwritten(self, zenml_registry: ZenMLRegistry) -> None:
        zenml_registry.register(manifest(), "somewhere")
        with pytest.raises(InvalidInputError, match="manifest"):
            zenml_registry.annotate("twin", 1, {"manifest": "{}"})

    def test_models_of_others_in_zenml_are_left_alone(self, zenml_registry: ZenMLRegistry) -> None:
        from zenml.client import Client

        Client().create_model("theirs")
        Client().create_model_version("theirs")
        with pytest.raises(InvalidInputError, match="no model 'theirs'"):
            zenml_registry.get("theirs")

    def test_several_in_production_are_mended_by_the_next_promotion(
        self, zenml_registry: ZenMLRegistry
    ) -> None:
        """As machines without a common lock could leave them."""
        from sqlmodel import Session, select
        from zenml.client import Client
        from zenml.zen_stores.schemas import ModelVersionSchema

        for weights in "abc":
            zenml_registry.register(manifest(weights), "somewhere")
        with Session(Client().zen_store.engine) as session:  # type: ignore[attr-defined]
            for row in session.exec(select(ModelVersionSchema)).all():
                row.stage = "production" if row.number < 3 else None  # type: ignore[assignment]
                session.add(row)
            session.commit()
        assert list(stages(zenml_registry).values()).count("production") == 2
        zenml_registry.set_stage("twin", 3, Stage.PRODUCTION)
        assert stages(zenml_registry) == {1: "archived", 2: "archived", 3: "production"}

    def test_artifacts_are_shown_with_the_version(self, zenml_registry: ZenMLRegistry) -> None:
        from zenml import save_artifact
        from zenml.client import Client

        artifact = save_artifact({"samples": 3}, name="instruct_dataset_test")
        zenml_registry.register(manifest(), "somewhere")
        zenml_registry.link("twin", 1, [artifact.id, artifact.id])
        zenml_registry.link("twin", 1, [artifact.id])
        found = Client().get_model_version("twin", 1)
        links = Client().list_model_version_artifact_links(model_version_id=found.id).items
        assert [link.artifact_version.id for link in links] == [artifact.id]

    def test_the_dashboard_shows_what_a_person_looks_for(self, zenml_registry: ZenMLRegistry) -> None:
        from zenml.client import Client

        zenml_registry.register(manifest(), "somewhere")
        zenml_registry.record("twin", 1, decision())
        shown = Client().get_model_version("twin", 1).run_metadata
        assert shown["dataset"] == "articles/1"
        assert shown["metrics"] == {"loss_last": 1.25}

    def test_a_store_that_cannot_be_reached_is_named_with_what_to_do(
        self, zenml_registry: ZenMLRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from zenml.client import Client

        def refused(client: Client) -> None:
            raise RuntimeError("Error connecting to URL")  # as zenml 0.98 does where nobody listens

        with monkeypatch.context() as patch:
            patch.setattr(Client, "zen_store", property(refused))
            with pytest.raises(StoreUnavailableError, match="zenml login"):
                zenml_registry.list_versions()


def test_a_summary_is_read_from_the_stores_file_as_zenml_keeps_it(zenml_registry: ZenMLRegistry) -> None:
    home = Path(os.environ["ZENML_CONFIG_PATH"])
    zenml_registry.register(manifest("first"), "/models/first")
    second = zenml_registry.register(manifest("second"), "/models/second")
    zenml_registry.set_stage(second.name, second.number, Stage.STAGING)
    summary = read_store(home)
    assert summary is not None
    assert summary.server is None
    assert summary.stack == "default"
    assert summary.models == ((second.name, 2, "staging"), (second.name, 1, "none"))


def test_a_home_without_a_store_has_no_summary(tmp_path: Path) -> None:
    assert read_store(tmp_path) is None
    (tmp_path / "config.yaml").write_text("store: {type: sql, url: 'sqlite:///gone.db', database: gone.db}")
    assert read_store(tmp_path) is None
    (tmp_path / "config.yaml").write_text("store: {type: rest, url: 'https://me:secret@zenml.example'}")
    summary = read_store(tmp_path)
    assert summary is not None
    assert summary.server == "zenml.example"
