"""Unpack a remote job's result safely, verify it against its manifests, and move it among the local models."""

import errno
import shutil
import tarfile
from pathlib import Path

from loguru import logger

from llm_engineering.application.training.finetune.model_folder import read_manifest, verify_folder
from llm_engineering.application.training.finetune.sft import MANIFEST
from llm_engineering.domain.errors import ModelFileError, TrainingError


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a gzipped tar archive into a folder; nothing of it lands elsewhere.

    Raises:
        ModelFileError: it is damaged, or holds what no model has: links, devices, paths that lead out of the folder.
        TrainingError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive, "r:gz") as packed:
            for member in packed:
                if not (member.isfile() or member.isdir()):
                    raise ModelFileError(
                        f"{archive.name} holds {member.name!r}, which is neither file nor folder. It was not unpacked further: "
                        "no training of ours writes such a thing."
                    )
                packed.extract(member, folder, filter="data")
    except tarfile.FilterError as error:
        raise ModelFileError(
            f"{archive.name} holds a path that leads out of its folder ({error}). It was not unpacked further: no training of "
            "ours writes such a thing."
        ) from None
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise TrainingError(
                f"The disk is full: {archive.name} could not be unpacked into {folder}. Make room there, and run the same "
                "command again; nothing is trained twice."
            ) from error
        raise ModelFileError(
            f"{archive.name} cannot be unpacked: {error}. Run the same command again to fetch it anew."
        ) from error


def install(folder: Path, root: Path) -> list[Path]:
    """Move the models of a folder, which lie there as ``NAME/RUN``, to ``root``; each is checked before.

    Returns:
        The models' folders under ``root``.

    Raises:
        ModelFileError: there is none, one is not what its manifest says, or another one is there under its name.
    """
    found = sorted(manifest.parent for manifest in folder.glob(f"*/*/{MANIFEST}"))
    if not found:
        raise ModelFileError(
            "The job's result holds no model: there is no NAME/RUN/model.json in it. See the job's log."
        )
    for model in found:
        verify_folder(model)
    return [_installed(model, root / model.relative_to(folder)) for model in found]


def _installed(model: Path, target: Path) -> Path:
    if (target / MANIFEST).is_file():
        if read_manifest(target).content_hash != read_manifest(model).content_hash:
            raise ModelFileError(
                f"{target} holds a model of the same configuration and data already, with other weights. Delete or move it to "
                "take the job's."
            )
        logger.info("{} is there already.", target)
        return target
    target.mkdir(parents=True, exist_ok=True)
    entries = sorted(
        model.iterdir(), key=lambda entry: entry.name == MANIFEST
    )  # the manifest last: it says that all is there
    for entry in entries:
        there = target / entry.name
        if there.is_dir():
            shutil.rmtree(there)
        entry.rename(there)
    return target
