"""The base that a server holds for adapters: where its GGUF file is, and whether it is the one that they were trained over.

Over another base an adapter would add to other weights, and what comes out would be fluent or not, but not what was trained.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from loguru import logger

from llm_engineering.application.llm.chat_templates import ChatTemplate
from llm_engineering.domain.errors import ConfigurationError, ModelFileError
from llm_engineering.infrastructure.training.gguf.header import F32, GgufHeader, read_header

_ROUNDING = 2.0**-8
"""Relative: what is left of a norm's weight once it has been stored in bf16."""
_FILE_TYPES = {0: "F32", 1: "F16", 32: "BF16"}
"""llama.cpp's numbers for files that are not quantised."""
_UNUSED = 5


def base_file(
    name: str, bundled: Mapping[str, Callable[[], Path]], cache: Path, template: ChatTemplate
) -> Path:
    """Return the GGUF file of a base: of a bundled model, a file, or a folder, which is converted to 16 bits once.

    Args:
        cache: folder for what is converted.

    Raises:
        ConfigurationError: it is none of these, or cannot be converted.
        ModelFileError: a bundled model's file is missing.
        MissingDependencyError: the packages that read a folder's weights are not installed.
    """
    if name in bundled:
        return bundled[name]()
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return path
    if not (path / "config.json").is_file():
        raise ConfigurationError(
            f"There is no file of the base {name!r} here. Name under 'base' a bundled model ({', '.join(bundled)}), a GGUF file "
            "of the base (in any quantisation), or a folder with its config.json, safetensors and tokenizer."
        )
    target = cache / f"{path.resolve().name}-{_state(path)}-{template.hash}.gguf"
    if not target.is_file():
        from llm_engineering.infrastructure.training.gguf.writer import write_gguf

        logger.info("Converting {} for llama.cpp; once, and kept as {}.", path, target)
        write_gguf(path, target, template, path.name)
    return target


def chat_template(gguf: Path) -> str:
    """Return the template that a file carries."""
    return str(read_header(gguf).values["tokenizer.chat_template"].decode())


def _state(folder: Path) -> str:
    """Of a folder's files: by size and time, as reading a large base whole would take longer than starting."""
    files = sorted((*folder.glob("*.json"), *folder.glob("*.safetensors")))
    told = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((str(folder.resolve()), told)).encode()).hexdigest()[:12]


class BaseFile:
    """The file that a server will load.

    Raises:
        ModelFileError: it is missing or no GGUF file.
    """

    def __init__(self, file: Path) -> None:
        self._header = read_header(file)

    @property
    def quantised(self) -> bool:
        return self._header.values.get("general.file_type") not in _FILE_TYPES

    def check(self, trained: Path, name: str) -> None:
        """That it is the base of a model whose merged weights are in the GGUF file ``trained``.

        Compared are the shape, the tokens, and the weights of the norms: these no quantisation rounds, and no adapter
        changes.

        Raises:
            ModelFileError: it is another one; says in what.
        """
        problems = list(_differences(self._header, read_header(trained)))
        if problems:
            raise ModelFileError(
                f"{self._header.file} is not the base that {name} was trained over: {'; '.join(problems)}. Name the right file "
                "under 'base', or leave 'base' out."
            )
        if self.quantised:
            logger.info(
                "{} over {}: the base's weights are quantised, so replies may differ a little from those of the merged model "
                "in 16 bits.",
                name,
                self._header.file.name,
            )


def _differences(base: GgufHeader, trained: GgufHeader) -> Iterator[str]:
    yield from _other_values(base, trained)
    yield from _other_tokens(base, trained)
    yield from _other_norms(base, trained)


def _other_values(base: GgufHeader, trained: GgufHeader) -> Iterator[str]:
    architecture = trained.values["general.architecture"].decode()
    keys = {"general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre"}
    keys |= {key for key in trained.values if key.startswith(f"{architecture}.")}
    keys -= {f"{architecture}.context_length"}  # a file may name less than the model can
    for key in sorted(keys & base.values.keys()):
        if base.values[key] != trained.values[key]:
            yield f"{key} is {_shown(base.values[key])}, not {_shown(trained.values[key])}"


def _other_tokens(base: GgufHeader, trained: GgufHeader) -> Iterator[str]:
    ours, theirs = (header.values.get("tokenizer.ggml.tokens", []) for header in (trained, base))
    kinds = trained.values.get("tokenizer.ggml.token_type", [])
    used = [number for number, kind in enumerate(kinds) if kind != _UNUSED]
    other = next((n for n in used if n >= len(theirs) or theirs[n] != ours[n]), None)
    if other is not None:
        came = _shown(theirs[other]) if other < len(theirs) else "missing"
        yield f"token {other} is {came}, not {_shown(ours[other])}"
    stop = trained.values.get("tokenizer.ggml.eot_token_id")
    if stop not in (base.values.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eot", "eos")):
        yield f"it does not end replies at token {stop}, as the chat template does"
    if _adds_bos(base) and not _adds_bos(trained) and _token(base, "bos") not in _template(trained):
        yield "it puts a BOS token in front by itself, which training did not"


def _adds_bos(header: GgufHeader) -> bool:
    """A file that does not say so has its tokenizer's habit: of those that are exported here, Llama 3's alone adds one."""
    habit = header.values.get("tokenizer.ggml.pre") == b"llama-bpe"
    return bool(header.values.get("tokenizer.ggml.add_bos_token", habit))


def _token(header: GgufHeader, kind: str) -> bytes:
    """Empty: there is none."""
    number = header.values.get(f"tokenizer.ggml.{kind}_token_id")
    return b"" if number is None else bytes(header.values["tokenizer.ggml.tokens"][number])


def _template(header: GgufHeader) -> bytes:
    """Where it writes BOS, llama.cpp adds none."""
    return bytes(header.values.get("tokenizer.chat_template", b""))


def _other_norms(base: GgufHeader, trained: GgufHeader) -> Iterator[str]:
    import numpy as np

    for name, place in trained.tensors.items():
        if not name.endswith("norm.weight"):
            continue
        found = base.tensors.get(name)
        if found is None or found.kind != F32 or found.shape != place.shape:
            yield f"it has no {name} in 32 bits"
            return
        if not np.allclose(base.read_floats(name), trained.read_floats(name), rtol=_ROUNDING, atol=1e-6):
            yield f"its weights are others ({name})"
            return


def _shown(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
