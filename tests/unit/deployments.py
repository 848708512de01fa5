"""Deployments for tests, and a registered model with all files that a server may want."""

from pathlib import Path
from typing import Any

from llm_engineering.application.deployment.config import Deployment
from llm_engineering.application.training.finetune.record import write_json
from llm_engineering.application.training.finetune.sft import MANIFEST, file_hashes
from llm_engineering.domain.models import ModelManifest, Stage
from tests.fakes.registry import FakeRegistry
from tests.unit.training_archives import model_folder


def make_deployment(**changes: Any) -> Deployment:
    """A deployment of the registry's ``twin`` with one copy; ``changes`` by section."""
    given: dict[str, Any] = {
        "endpoint": "twin",
        "model": {"name": "twin"},
        "container": {"image": "public.ecr.aws/example/vllm:1"},
        "instance": {"type": "ml.g5.xlarge"},
        "rollout": {"bake_minutes": 0},
    }
    return Deployment.model_validate(given | changes)


def exported_folder(folder: Path, weights: bytes = b"merged") -> Path:
    """A trained model's folder with adapter, merged weights and GGUF, of a few bytes."""
    model_folder(folder)
    for name, content in (("merged/model.safetensors", weights), ("gguf/model.gguf", b"GGUF" + weights)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest = ModelManifest.model_validate_json((folder / MANIFEST).read_bytes())
    new = manifest.model_copy(update={"files": file_hashes(folder)})
    write_json(folder / MANIFEST, new.model_dump(mode="json"))
    return folder


def register_exported(registry: FakeRegistry, folder: Path, weights: bytes = b"merged") -> None:
    """Register a model and put it into production."""
    exported_folder(folder, weights)
    manifest = ModelManifest.model_validate_json((folder / MANIFEST).read_bytes())
    version = registry.register(manifest, str(folder))
    registry.set_stage(version.name, version.number, Stage.PRODUCTION)
