"""A model's folder of a few bytes with a true manifest, and archives of such folders."""

import io
import tarfile
from datetime import UTC, datetime
from pathlib import Path

from llm_engineering.application.llm.chat_templates import load_template
from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.record import write_json
from llm_engineering.application.training.finetune.sft import MANIFEST, file_hashes
from llm_engineering.domain.models import ModelManifest


def model_folder(folder: Path, *, base: str = "SmolLM2-135M-Instruct") -> Path:
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    manifest = ModelManifest(
        name="twin",
        base=base,
        method="lora",
        stage="sft",
        template="chatml",
        template_hash=load_template("chatml").hash,
        dataset="toy@1",
        dataset_hash="0" * 64,
        config=SftConfig(base_model=base).model_dump(mode="json"),
        metrics={},
        files=file_hashes(folder),
        created_at=datetime.now(UTC),
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return folder


def packed(folder: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for entry in sorted(folder.iterdir()):
            archive.add(entry, entry.name)
    return stream.getvalue()
