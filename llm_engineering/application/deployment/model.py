"""The model that goes to an endpoint: found, verified, and described by tags."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llm_engineering.application.deployment.config import ModelConfig, Server
from llm_engineering.application.files import sha256_of_file
from llm_engineering.application.llm.chat_templates import TemplateUse, check_contract
from llm_engineering.application.ports import ModelRegistry
from llm_engineering.application.training.finetune.model_folder import GGUF, MERGED, verify_folder
from llm_engineering.domain.documents import text_hash
from llm_engineering.domain.errors import ModelFileError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.models import ModelManifest, ModelVersion


@dataclass(frozen=True, slots=True)
class DeployableModel:
    """A verified model, with what to upload for it."""

    label: str
    """``twin:3``, an address in S3, or ``NAME@COMMIT`` of the hub."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """To upload, by their path in the container's ``/opt/ml/model``."""
    s3: str | None = None
    hub: str | None = None
    revision: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    """Tags: adapter, base, template_hash, prompt …"""

    @property
    def content_hash(self) -> str:
        """Of the files by name, or of the address."""
        if not self.files:
            return text_hash(f"{self.s3}{self.hub}@{self.revision}")
        return text_hash(repr(sorted((name, sha256_of_file(path)) for name, path in self.files.items())))


def find_model(
    config: ModelConfig, server: Server, registry: ModelRegistry | None, prompt: str
) -> DeployableModel:
    """Return the model that a configuration names.

    Args:
        registry: needed for ``model.name`` only.
        prompt: name and version of the prompt that the twin asks it with: ``answer.v1``.

    Raises:
        InvalidInputError: the registry holds no such version.
        ModelFileError: its files are gone, changed, or not of the kind that the server reads.
        TemplateMismatchError: it learned another chat template than the code has.
    """
    facts = {"prompt": prompt}
    if config.name is None:
        if config.template is not None and config.template_hash is not None:
            _check_template(config.s3 or config.hub or "", config.template, config.template_hash)
            facts |= {"template": config.template, "template_hash": config.template_hash}
        label = config.s3 or f"{config.hub}@{config.revision}"
        facts["model"] = label
        return DeployableModel(label, s3=config.s3, hub=config.hub, revision=config.revision, facts=facts)
    if registry is None:
        raise ValueError("a model of the registry needs the registry")
    version = registry.get(config.name, config.version or config.stage)
    folder = registry.files.fetch(version.location)
    manifest = _verify(version, folder)
    return DeployableModel(
        version.label, _choose_files(version, folder, server), facts=facts | _describe(version, manifest)
    )


def _verify(version: ModelVersion, folder: Path) -> ModelManifest:
    if not folder.is_dir():
        raise ModelFileError(
            f"The files of {version.label} are not at {version.location}. Bring the folder back; or register it again with "
            f"SHARED_FILES_URI set, so that every machine finds it; or name what is in S3 already: model.s3."
        )
    manifest = verify_folder(folder)
    if manifest.content_hash != version.manifest.content_hash:
        raise ModelFileError(
            f"The folder {version.location} holds another model than the one registered as {version.label}. Register it anew, "
            "or bring the files back."
        )
    _check_template(f"the model {version.label}", manifest.template, manifest.template_hash)
    return manifest


def _check_template(where: str, name: str, template_hash: str) -> None:
    check_contract(
        TemplateUse.of_this_version("the code that would ask it", name),
        TemplateUse(where, name, template_hash),
    )


def _choose_files(version: ModelVersion, folder: Path, server: Server) -> dict[str, Path]:
    names = version.manifest.files
    if server == "llama_cpp":
        found = {"model.gguf": folder / GGUF} if GGUF in names else {}
    else:
        found = {
            name.removeprefix(f"{MERGED}/"): folder / name for name in names if name.startswith(f"{MERGED}/")
        }
    if not found:
        wanted = GGUF if server == "llama_cpp" else f"{MERGED}/"
        raise ModelFileError(
            f"{version.label} has no {wanted}, which {server} reads: it was trained without export. Run {POE} "
            "run-training-pipeline again with the same configuration: what is trained stays, and the export is made up for."
        )
    return found


def _describe(version: ModelVersion, manifest: ModelManifest) -> dict[str, str]:
    """What belongs to a model, as tags: AWS allows 256 characters each."""
    adapters = sorted(
        name for name in manifest.files if name.startswith("adapter/") and name.endswith(".safetensors")
    )
    facts = {
        "model": version.label,
        "stage": version.stage.value,
        "content": manifest.content_hash,
        "base": manifest.base,
        "template": manifest.template,
        "template_hash": manifest.template_hash,
        "dataset": manifest.dataset,
    }
    if adapters:
        facts["adapter"] = manifest.files[adapters[0]]
    return {name: value[:256] for name, value in facts.items()}
