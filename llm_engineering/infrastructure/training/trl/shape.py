"""Read a model's sizes from its configuration, without loading weights."""

import re
from collections.abc import Iterator
from typing import Any

from llm_engineering.application.training.finetune.config import LoraConfig
from llm_engineering.application.training.finetune.preflight import ModelShape
from llm_engineering.domain.errors import ConfigurationError

_BLOCK = re.compile(r"\.(\d+)\.")
"""The number of a block in a layer's name, such as ``model.layers.3.mlp.up_proj``; PEFT reads it there too."""


def model_shape(config: Any, lora: LoraConfig | None) -> ModelShape:
    """Return sizes of a decoder, and of the layers that adapters would be attached to.

    Raises:
        ConfigurationError: the model has no layer of a name in ``lora.target_modules``, or no block of a number in
            ``lora.layers_to_transform``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):  # the modules without their memory
        model = AutoModelForCausalLM.from_config(config)
    linear = {name: (m.in_features, m.out_features) for name, m in linear_layers(model)}
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        linear_parameters=sum(inner * outer for inner, outer in linear.values()),
        vocabulary=text.vocab_size,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        attention_width=heads * head_size,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * head_size,
        adapted=_adapted(linear, lora or LoraConfig()),
    )


def find_context(config: Any) -> int | None:
    """Return the number of tokens that a model was made for; None: its configuration does not say."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else None


def linear_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the linear layers with their names, all but the output layer."""
    import torch

    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            yield name, module


def _adapted(linear: dict[str, tuple[int, int]], lora: LoraConfig) -> tuple[tuple[int, int], ...]:
    if lora.layers_to_transform is not None:
        numbers = {int(found[1]) for name in linear if (found := _BLOCK.search(name))}
        unknown_numbers = sorted(set(lora.layers_to_transform) - numbers)
        if unknown_numbers:
            raise ConfigurationError(
                f"lora.layers_to_transform: the model has no layer {', '.join(map(str, unknown_numbers))}. "
                f"It has {len(numbers)}: 0 to {max(numbers, default=0)}."
            )
        chosen = set(lora.layers_to_transform)
        linear = {
            name: size for name, size in linear.items() if (f := _BLOCK.search(name)) and int(f[1]) in chosen
        }
    if lora.target_modules == "all-linear":
        return tuple(linear.values())
    names = {name.rpartition(".")[2] for name in linear}
    unknown = sorted(set(lora.target_modules) - names)
    if unknown:
        raise ConfigurationError(
            f"lora.target_modules: the model has no layers named {', '.join(unknown)}. It has: {', '.join(sorted(names))}."
        )
    return tuple(size for name, size in linear.items() if name.rpartition(".")[2] in lora.target_modules)
