"""A model registry in memory, that passes the same conformance suite as ZenML's."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.models import ModelManifest, ModelVersion, PromotionDecision, Stage
from llm_engineering.infrastructure.shared.stored_files import StoredFiles


class FakeRegistry:
    def __init__(self, files: StoredFiles | None = None) -> None:
        self.files = files or StoredFiles(None, Path())
        self._versions: dict[str, list[ModelVersion]] = {}
        self._decisions: dict[tuple[str, int], dict[str, PromotionDecision]] = {}
        self._turn = threading.RLock()

    @contextmanager
    def hold_lock(self) -> Iterator[None]:
        with self._turn:
            yield

    def register(self, manifest: ModelManifest, location: str) -> ModelVersion:
        with self._turn:
            known = self._versions.setdefault(manifest.name, [])
            for place, version in enumerate(known):
                if version.manifest.content_hash == manifest.content_hash:
                    if "://" in location and "://" not in version.location:
                        known[place] = version.model_copy(update={"location": location})
                    return known[place]
            added = ModelVersion(
                name=manifest.name, number=len(known) + 1, manifest=manifest, location=location
            )
            known.append(added)
            return added

    def list_versions(self, name: str | None = None) -> list[ModelVersion]:
        if name is None:
            return [
                version for known in sorted(self._versions) for version in reversed(self._versions[known])
            ]
        if name not in self._versions:
            raise InvalidInputError(
                f"There is no model '{name}'. Models: {', '.join(sorted(self._versions)) or 'none'}"
            )
        return list(reversed(self._versions[name]))

    def get(self, name: str, version: int | Stage | None = None) -> ModelVersion:
        found = self.list_versions(name)
        for one in found:
            if version is None or version == (one.stage if isinstance(version, Stage) else one.number):
                return one
        there = ", ".join(f"{one.number} ({one.stage.value})" for one in found)
        raise InvalidInputError(f"There is no version {version} of {name}. Versions: {there}")

    def set_stage(self, name: str, number: int, stage: Stage) -> ModelVersion:
        if stage is Stage.NONE:
            raise InvalidInputError("a version leaves its stage by being archived, it cannot go to 'none'")
        with self._turn:
            self.get(name, number)
            for place, version in enumerate(self._versions[name]):
                if version.number == number:
                    self._versions[name][place] = version.model_copy(update={"stage": stage})
                elif version.stage is stage:
                    self._versions[name][place] = version.model_copy(update={"stage": Stage.ARCHIVED})
            return self.get(name, number)

    def annotate(self, name: str, number: int, metadata: Mapping[str, object]) -> ModelVersion:
        with self._turn:
            found = self.get(name, number)
            place = self._versions[name].index(found)
            self._versions[name][place] = found.model_copy(
                update={"metadata": {**found.metadata, **metadata}}
            )
            return self.get(name, number)

    def record(self, name: str, number: int, decision: PromotionDecision) -> None:
        self.get(name, number)
        self._decisions.setdefault((name, number), {}).setdefault(decision.id, decision)

    def list_decisions(self, name: str, number: int | None = None) -> list[PromotionDecision]:
        numbers = [
            version.number
            for version in self.list_versions(name)
            if number is None or version.number == number
        ]
        if not numbers:
            self.get(name, number)
        kept = [decision for one in numbers for decision in self._decisions.get((name, one), {}).values()]
        return sorted(kept, key=lambda decision: decision.decided_at, reverse=True)
