"""What every registry of models must do. Subclasses hand in an empty one by the fixture ``registry``."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llm_engineering.application.ports import ModelRegistry
from llm_engineering.application.training.registry.promotion import promote
from llm_engineering.domain.errors import InvalidInputError, PromotionRefusedError
from llm_engineering.domain.models import ModelManifest, PromotionDecision, Stage

NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)


def manifest(weights: str = "a", name: str = "twin", **fields: Any) -> ModelManifest:
    """A manifest with plausible fields; ``weights`` makes the files differ."""
    defaults: dict[str, Any] = {
        "base": "SmolLM2-135M-Instruct",
        "method": "lora",
        "stage": "sft",
        "template": "chatml",
        "template_hash": "t" * 64,
        "dataset": "articles/1",
        "dataset_hash": "d" * 64,
        "config": {"optimizer": {"learning_rate": 0.0002}, "targets": ["q", "v"], "名": "値"},
        "metrics": {"loss_last": 1.25},
        "files": {"adapter/adapter_model.safetensors": weights * 64, "training.json": "f" * 64},
        "created_at": NOW,
    }
    return ModelManifest(name=name, **{**defaults, **fields})


def decision(candidate: str = "twin:1", minutes: int = 0, **fields: Any) -> PromotionDecision:
    defaults: dict[str, Any] = {
        "production": None,
        "evaluation": "evaluation-1",
        "metric": "rouge_l",
        "margin": 0.01,
        "promoted_to": Stage.STAGING,
        "reasons": ("rouge_l: is better “by far” | 比",),
        "decided_at": NOW + timedelta(minutes=minutes),
    }
    return PromotionDecision(candidate=candidate, **{**defaults, **fields})


def stages(registry: ModelRegistry, name: str = "twin") -> dict[int, str]:
    return {version.number: version.stage.value for version in registry.list_versions(name)}


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
class RegistryContract:
    """The contract of ``ModelRegistry``."""

    def test_a_model_comes_back_as_it_was_registered(self, registry: ModelRegistry) -> None:
        given = manifest(parent="p" * 64, base_revision="main")
        version = registry.register(given, "data/trained/twin/1")
        assert (version.label, version.stage) == ("twin:1", Stage.NONE)
        assert version.manifest == given
        assert version.location == "data/trained/twin/1"
        assert registry.get("twin") == registry.get("twin", 1) == version

    def test_the_same_files_registered_again_are_the_version_that_is_there(
        self, registry: ModelRegistry
    ) -> None:
        first = registry.register(manifest("a"), "data/1")
        other = registry.register(manifest("b"), "data/2")
        again = registry.register(manifest("a", created_at=NOW + timedelta(days=1)), "data/3")
        assert (first.number, other.number) == (1, 2)
        assert again == first
        assert len(registry.list_versions("twin")) == 2

    def test_models_are_kept_apart_and_versions_come_newest_first(self, registry: ModelRegistry) -> None:
        for name, weights in [("twin", "a"), ("other", "a"), ("twin", "b"), ("twin", "c")]:
            registry.register(manifest(weights, name), "somewhere")
        assert [version.label for version in registry.list_versions("twin")] == ["twin:3", "twin:2", "twin:1"]
        assert [version.label for version in registry.list_versions()] == [
            "other:1",
            "twin:3",
            "twin:2",
            "twin:1",
        ]
        registry.set_stage("other", 1, Stage.PRODUCTION)
        registry.set_stage("twin", 2, Stage.PRODUCTION)
        assert stages(registry, "other") == {1: "production"}

    def test_an_empty_registry_lists_nothing(self, registry: ModelRegistry) -> None:
        assert registry.list_versions() == []

    def test_the_stage_is_taken_from_whoever_had_it(self, registry: ModelRegistry) -> None:
        for weights in "abc":
            registry.register(manifest(weights), "somewhere")
        assert registry.set_stage("twin", 1, Stage.STAGING).stage is Stage.STAGING
        assert registry.set_stage("twin", 1, Stage.PRODUCTION).stage is Stage.PRODUCTION
        registry.set_stage("twin", 2, Stage.STAGING)
        assert stages(registry) == {1: "production", 2: "staging", 3: "none"}
        registry.set_stage("twin", 2, Stage.PRODUCTION)
        assert stages(registry) == {1: "archived", 2: "production", 3: "none"}
        registry.set_stage("twin", 3, Stage.ARCHIVED)
        assert stages(registry) == {1: "archived", 2: "production", 3: "archived"}
        registry.set_stage("twin", 1, Stage.PRODUCTION)
        assert stages(registry) == {1: "production", 2: "archived", 3: "archived"}
        assert registry.get("twin", Stage.PRODUCTION).number == 1
        registry.set_stage("twin", 1, Stage.PRODUCTION)
        assert stages(registry)[1] == "production", "to where it stands already: nothing happens"

    def test_no_version_goes_back_to_no_stage(self, registry: ModelRegistry) -> None:
        registry.register(manifest(), "somewhere")
        with pytest.raises(InvalidInputError, match="archived"):
            registry.set_stage("twin", 1, Stage.NONE)

    def test_what_does_not_exist_is_refused_with_what_does(self, registry: ModelRegistry) -> None:
        registry.register(manifest(), "somewhere")
        registry.register(manifest("b"), "somewhere")
        asked: list[Callable[[], object]] = [
            lambda: registry.get("twn"),
            lambda: registry.list_versions("twn"),
            lambda: registry.list_decisions("twn"),
            lambda: registry.set_stage("twn", 1, Stage.STAGING),
        ]
        for ask in asked:
            with pytest.raises(InvalidInputError, match=r"'twn'.*Models: twin"):
                ask()
        numbered: list[Callable[[], object]] = [
            lambda: registry.get("twin", 7),
            lambda: registry.get("twin", Stage.PRODUCTION),
            lambda: registry.list_decisions("twin", 7),
            lambda: registry.set_stage("twin", 7, Stage.STAGING),
            lambda: registry.record("twin", 7, decision()),
            lambda: registry.annotate("twin", 7, {"a": 1}),
        ]
        for ask in numbered:
            with pytest.raises(InvalidInputError, match=r"of twin\. Versions: 2 \(none\), 1 \(none\)"):
                ask()

    def test_notes_are_kept_and_the_newest_value_holds(self, registry: ModelRegistry) -> None:
        registry.register(manifest(), "somewhere")
        registry.annotate("twin", 1, {"evaluation_report": "a.json", "note": "x"})
        version = registry.annotate("twin", 1, {"evaluation_report": "b.json"})
        assert version.metadata["evaluation_report"] == "b.json"
        assert version.metadata["note"] == "x"

    def test_decisions_are_read_back_newest_first(self, registry: ModelRegistry) -> None:
        registry.register(manifest(), "somewhere")
        registry.register(manifest("b"), "somewhere")
        assert registry.list_decisions("twin") == []
        refused = decision("twin:2", 5, promoted_to=None, reasons=("one", "two"))
        early, late = decision(minutes=1), decision(minutes=9, production="twin:2", act="rollback")
        for number, one in [(1, late), (2, refused), (1, early)]:
            registry.record("twin", number, one)
        assert registry.list_decisions("twin") == [late, refused, early]
        assert registry.list_decisions("twin", 1) == [late, early]

    def test_a_decision_drawn_twice_is_kept_once_but_two_acts_are_two(self, registry: ModelRegistry) -> None:
        registry.register(manifest(), "somewhere")
        for minutes in (0, 1):
            registry.record("twin", 1, decision(minutes=minutes))
            registry.record("twin", 1, decision(minutes=minutes, act="promotion"))
        acts = [found.act for found in registry.list_decisions("twin", 1)]
        assert sorted(acts) == ["decision", "promotion", "promotion"]

    def test_the_same_files_registered_at_once_become_one_version(self, registry: ModelRegistry) -> None:
        start = threading.Barrier(4)

        def register(weights: str) -> int:
            start.wait(30)
            return registry.register(manifest(weights), "somewhere").number

        with ThreadPoolExecutor(4) as pool:
            numbers = list(pool.map(register, "aaab"))
        assert len({*numbers[:3]}) == 1
        assert sorted(stages(registry)) == [1, 2]

    def test_two_promotions_at_once_leave_one_in_production_and_refuse_the_other(
        self, registry: ModelRegistry
    ) -> None:
        """One after the other: the second finds that what it was compared with is no longer in production."""
        for number, weights in enumerate("abc", 1):
            registry.register(manifest(weights), "somewhere")
            registry.record("twin", number, decision(f"twin:{number}", production="twin:1"))
        registry.set_stage("twin", 1, Stage.PRODUCTION)
        start = threading.Barrier(2)

        def go(number: int) -> str:
            start.wait(30)
            try:
                registry.set_stage("twin", number, Stage.STAGING)
                return promote(registry, "twin", number)[0].label
            except PromotionRefusedError as error:
                return f"refused: {error}"

        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(go, (2, 3)))
        refused = [outcome for outcome in outcomes if outcome.startswith("refused")]
        assert len(refused) == 1
        assert "in staging" in refused[0] or "now it is twin:" in refused[0]
        assert list(stages(registry).values()).count("production") == 1
        [winner] = [outcome for outcome in outcomes if not outcome.startswith("refused")]
        assert registry.get("twin", Stage.PRODUCTION).label == winner
        assert [found.candidate for found in registry.list_decisions("twin") if found.act == "promotion"] == [
            winner
        ]
