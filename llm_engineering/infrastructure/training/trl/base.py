"""Base models: where they are, and how a GGUF file becomes one that can be trained.

A GGUF file is converted once into a folder of safetensors in 32-bit floats, named after the file's checksum. The
weights are those of the file: what its quantisation has rounded stays rounded.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from llm_engineering.application.files import sha256_of_file
from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError, ModelFileError
from llm_engineering.domain.models import ModelManifest

CONVERSION = 3
"""Counted up when the conversion changes, so that folders of an older one are not taken."""
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True, slots=True)
class Base:
    """A model as ``transformers`` loads it."""

    name: str
    """As the user named it."""
    location: str
    """A folder, or a name on the hub."""
    revision: str | None = None
    file: str | None = None
    """SHA-256 of the GGUF file that it was converted from."""

    @property
    def arguments(self) -> dict[str, Any]:
        """For ``from_pretrained``; code that comes with a model is never run."""
        return {
            "pretrained_model_name_or_path": self.location,
            "revision": self.revision,
            "trust_remote_code": False,
        }


class Bases:
    """Finds base models by what a configuration calls them."""

    def __init__(self, cache: Path, bundled: Mapping[str, Callable[[], Path]]) -> None:
        """
        Args:
            cache: folder for converted models.
            bundled: how to get the GGUF file of each bundled model; raises ModelFileError where it is not there.
        """
        self._cache = cache
        self._bundled = bundled

    def find(self, name: str, revision: str | None = None) -> Base:
        """Return the model of that name: bundled, a GGUF file, a folder, or on the hub.

        Raises:
            ConfigurationError: it is none of these, or a revision was named of what has none.
            ModelFileError: a bundled model's file is missing.
            MissingDependencyError: the package that reads GGUF files is not installed.
        """
        path = Path(name).expanduser()
        local = name in self._bundled or path.exists()
        if local and revision is not None:
            raise ConfigurationError(
                f"'revision' has no effect with {name}, which is on this machine; leave it out."
            )
        if name in self._bundled:
            return self._converted(name, self._bundled[name]())
        if path.is_file() and path.suffix == ".gguf":
            return self._converted(name, path)
        if path.is_dir():
            if not (path / "config.json").is_file() or not any(
                file for kind in _WEIGHTS for file in path.glob(kind)
            ):
                raise ConfigurationError(
                    f"The folder {name} holds no model: config.json and weights are needed."
                )
            return Base(name, str(path))
        if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise ConfigurationError(
                f"There is no base model {name!r}. Name a bundled model ({', '.join(self._bundled)}), a folder, a GGUF "
                "file, or a model on the hub (OWNER/NAME)."
            )
        return Base(name, name, revision)

    def check(self, manifest: ModelManifest) -> None:
        """That a model's base still has the weights that it was trained over. One on the hub is pinned by its revision.

        Raises:
            ConfigurationError: it has others.
            ModelFileError: it is gone.
        """
        base = self.find(manifest.base, manifest.base_revision)
        if manifest.base_hash is None or not Path(base.location).exists():
            return
        found = weights_hash(base)
        if found != manifest.base_hash:
            raise ConfigurationError(
                f"The weights of the base {base.name} are others ({found[:12]}) than those that the {manifest.stage} model "
                f"{manifest.name} was trained over ({manifest.base_hash[:12]}). Bring the base back, or train the model anew."
            )

    def _converted(self, name: str, gguf: Path) -> Base:
        checksum = sha256_of_file(gguf)
        target = self._cache / f"{gguf.stem}-{checksum[:12]}-v{CONVERSION}"
        found = Base(name, str(target), file=checksum)
        if (target / "config.json").is_file():
            return found
        started = time.monotonic()
        logger.info("Unpacking {} into {}.", gguf.name, target)
        # Each process its own: of several, all may come here at once, and the first to end is taken.
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _convert(gguf, part)
        try:
            part.rename(target)
        except OSError:
            if not (target / "config.json").is_file():
                raise
            shutil.rmtree(part)
        logger.info("Unpacked {} in {:.0f} s.", gguf.name, time.monotonic() - started)
        return found


def _convert(gguf: Path, target: Path) -> None:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise MissingDependencyError("gguf", "training", "Training from a GGUF file") from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    reader = GGUFReader(gguf)
    _name_control_tokens(tokenizer, reader)
    _split_digits(tokenizer, reader)
    model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain floats now; with the note left in, loading them again would look for a quantised file.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _name_control_tokens(tokenizer: Any, reader: Any) -> None:
    """Take EOS, BOS and padding from the file's metadata: transformers' own reading of it mixes them up."""
    for kind, key in (("eos", "eos_token_id"), ("bos", "bos_token_id"), ("pad", "padding_token_id")):
        field = reader.fields.get(f"tokenizer.ggml.{key}")
        if field is not None:
            token = tokenizer.convert_ids_to_tokens(int(field.contents()))
            setattr(tokenizer, f"{kind}_token", token)


def _split_digits(tokenizer: Any, reader: Any) -> None:
    """SmolLM takes digits one by one before all else; transformers' reading of the file forgets that, llama.cpp does not."""
    from tokenizers import pre_tokenizers

    field = reader.fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        kept = tokenizer.backend_tokenizer
        kept.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), kept.pre_tokenizer]
        )


def weights_hash(base: Base) -> str:
    """Return which weights these are: SHA-256 of the GGUF file or the one file of weights, or over names and hashes of
    several.

    Raises:
        ModelFileError: they are not on this machine; a model on the hub is, once it was loaded.
    """
    if base.file is not None:
        return base.file
    folder = Path(base.location) if Path(base.location).is_dir() else _downloaded(base)
    files = next((found for kind in _WEIGHTS if (found := sorted(folder.glob(kind)))), [])
    if not files:
        raise ModelFileError(f"{folder} has no weights of the base model {base.name}.")
    hashes = [(file.name, sha256_of_file(file)) for file in files]
    if len(hashes) == 1:
        return hashes[0][1]
    return hashlib.sha256("".join(f"{name} {hash_}\n" for name, hash_ in hashes).encode()).hexdigest()


def _downloaded(base: Base) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base.location, revision=base.revision, local_files_only=True))
    except OSError as error:
        raise _not_loaded(base, error) from error


def load_tokenizer(base: Base) -> Any:
    """Return the model's tokenizer, with offsets and a padding token.

    Raises:
        ConfigurationError: it has no fast form or no EOS.
        ModelFileError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(**base.arguments)
    except (OSError, ValueError) as error:
        raise _not_loaded(base, error) from error
    if not tokenizer.is_fast:
        raise ConfigurationError(
            f"The tokenizer of {base.name} tells no character offsets (it is no fast one), so that answers cannot be found in "
            "it. Take a base model with a tokenizer.json."
        )
    if tokenizer.eos_token is None:
        raise ConfigurationError(f"The tokenizer of {base.name} has no EOS token; a model could never stop.")
    if tokenizer.pad_token is None:
        # Harmless: labels and attention masks are made from lengths, never by looking for the padding token.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(base: Base) -> Any:
    """Return the model's configuration.

    Raises:
        ModelFileError: it cannot be loaded.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(**base.arguments)
    except (OSError, ValueError) as error:
        raise _not_loaded(base, error) from error


def load_model(base: Base, **arguments: Any) -> Any:
    """Return the model's weights, as ``arguments`` of ``from_pretrained`` say.

    Raises:
        ModelFileError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    if Path(base.location).exists():
        disable_progress_bar()  # seconds, whose bar would fill a line of the log; a download keeps its own
    try:
        return AutoModelForCausalLM.from_pretrained(**base.arguments, **arguments)
    except (OSError, ValueError) as error:
        raise _not_loaded(base, error) from error


def _not_loaded(base: Base, error: Exception) -> ModelFileError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelFileError(
        f"The base model {base.name} cannot be loaded: {reason} Check the name; a gated model on the hub needs HF_TOKEN."
    )
