"""A LoRA adapter as a GGUF file, which llama.cpp adds to a base while it runs: ``W x + alpha / rank · B (A x)``.

The file holds A and B of each layer as they were trained, in 32 bits. Its layout is llama.cpp's: ``general.type`` adapter,
``adapter.type`` lora, ``adapter.lora.alpha``, and the tensors ``NAME.lora_a`` (rank × inputs) and ``NAME.lora_b``
(outputs × rank), where NAME is the base's tensor.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError
from llm_engineering.infrastructure.training.gguf.writer import gguf_name, interleave_rows, new_file

if TYPE_CHECKING:
    import numpy as np

_TENSOR = re.compile(r"base_model\.model\.(model\.layers\..+)\.lora_([AB])\.weight")
_PLAIN: Mapping[str, object] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
    "lora_bias": False,
    "fan_in_fan_out": False,
    "alpha_pattern": {},
    "rank_pattern": {},
    "modules_to_save": None,
    "layer_replication": None,
    "trainable_token_indices": None,
    "alora_invocation_tokens": None,
}
"""Settings of PEFT under which an adapter is ``alpha / rank · B A`` for every layer, and nothing else."""


def write_adapter(adapter: Path, base_config: Path, target: Path, name: str) -> None:
    """Convert PEFT's folder; the file appears whole or not at all.

    Args:
        base_config: ``config.json`` of the base or of the merged model, which tells the heads.

    Raises:
        ConfigurationError: the adapter does more than llama.cpp can; says what.
        MissingDependencyError: the package ``gguf`` is not installed.
    """
    try:
        from gguf import GGUFType
    except ImportError:
        raise MissingDependencyError("gguf", "training", "Writing an adapter for llama.cpp") from None
    told = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    odd = [key for key, plain in _PLAIN.items() if (told.get(key) or None) != (plain or None)]
    if odd:
        raise _refused(f"its {', '.join(f'{key} is {told.get(key)!r}' for key in odd)}")
    config = json.loads(base_config.read_text(encoding="utf-8"))
    with new_file(target, name) as writer:
        writer.add_type(GGUFType.ADAPTER)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(told["lora_alpha"]))
        for tensor, weights in _tensors(adapter, config):
            writer.add_tensor(tensor, weights)


def _tensors(adapter: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, "np.ndarray[Any, Any]"]]:
    import torch
    from safetensors import safe_open

    heads = int(config["num_attention_heads"])
    rotated = {"q_proj": heads, "k_proj": int(config.get("num_key_value_heads") or heads)}
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as weights:
        for key in weights.keys():  # noqa: SIM118 - no mapping, though it has keys
            found = _TENSOR.fullmatch(key)
            if found is None:
                raise _refused(f"it has weights of an unknown name, {key}")
            layer, side = found.groups()
            value = weights.get_tensor(key).to(torch.float32)
            head_count = rotated.get(layer.rpartition(".")[2])
            if side == "B" and head_count:
                value = interleave_rows(
                    value, head_count
                )  # what comes out of B is rotated, as what comes out of W
            yield f"{gguf_name(f'{layer}.weight')}.lora_{side.lower()}", value.contiguous().numpy()


def _refused(reason: str) -> ConfigurationError:
    return ConfigurationError(f"This adapter cannot be converted to GGUF here: {reason}.")
