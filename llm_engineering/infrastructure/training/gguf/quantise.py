"""Smaller copies of a GGUF file: its matrices in 8 or 4 bits, in blocks of 32 weights with a scale each.

``Q8_0`` keeps integers of 8 bits and a scale; ``Q4_0`` of 4 bits and a scale, ``Q4_1`` of 4 bits, a scale and an offset. The
embedding, which small models use as output layer too, stays at 8 bits in all of them, and norms in 32-bit floats.
"""

from pathlib import Path
from typing import Any

from llm_engineering.domain.errors import InvalidInputError, MissingDependencyError, ModelFileError
from llm_engineering.infrastructure.training.gguf.writer import new_file

QUANTISATIONS = ("q8_0", "q4_0", "q4_1")
_BLOCK = 32
_FINE = ("token_embd.weight", "output.weight")


def quantise_gguf(source: Path, target: Path, kind: str) -> None:
    """Write a copy whose matrices are quantised; it appears whole or not at all.

    Args:
        kind: one of ``QUANTISATIONS``.

    Raises:
        InvalidInputError: there is no such kind, or the file is quantised already.
        ModelFileError: it cannot be read.
        MissingDependencyError: the package ``gguf`` is not installed.
    """
    if kind not in QUANTISATIONS:
        raise InvalidInputError(
            f"There is no quantisation {kind!r} here; there are: {', '.join(QUANTISATIONS)}."
        )
    try:
        from gguf import GGMLQuantizationType, GGUFReader, LlamaFileType
    except ImportError:
        raise MissingDependencyError("gguf", "training", "Quantising a model for llama.cpp") from None
    from gguf.quants import quantize

    try:
        reader = GGUFReader(source)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{source} cannot be read as a GGUF file: {error}") from error
    whole = {GGMLQuantizationType.F16, GGMLQuantizationType.F32}
    if other := {tensor.tensor_type.name for tensor in reader.tensors if tensor.tensor_type not in whole}:
        raise InvalidInputError(
            f"{source.name} holds {', '.join(sorted(other))} already; quantising twice loses more than once. Name a file of 16 "
            "bits, such as gguf/model.gguf of a trained model."
        )
    name = reader.fields["general.name"].contents() if "general.name" in reader.fields else source.stem
    with new_file(target, f"{name} {kind.upper()}") as writer:
        writer.add_file_type(LlamaFileType[f"MOSTLY_{kind.upper()}"])
        _copy_fields(reader, writer)
        for tensor in reader.tensors:
            chosen = GGMLQuantizationType["Q8_0" if tensor.name in _FINE else kind.upper()]
            if tensor.data.ndim < 2 or tensor.data.shape[-1] % _BLOCK:
                writer.add_tensor(tensor.name, tensor.data)
            else:
                writer.add_tensor(
                    tensor.name, quantize(tensor.data.astype("float32"), chosen), raw_dtype=chosen
                )


def _copy_fields(reader: Any, writer: Any) -> None:
    own = {"general.architecture", "general.name", "general.file_type"}
    for key, field in reader.fields.items():
        if key in own or key.startswith("GGUF."):
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=inner)
