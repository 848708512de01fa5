"""Read a model's sizes from its configuration, without loading weights."""

from typing import Any

from llm_engineering.application.training.finetune.config import LoraConfig
from llm_engineering.application.training.finetune.preflight import ModelShape
from llm_engineering.domain.errors import ConfigurationError


def model_shape(config: Any, lora: LoraConfig | None) -> ModelShape:
    """Return sizes of a decoder, and of the layers that adapters would be attached to.

    Raises:
        ConfigurationError: the model has no layer of a name in ``lora.target_modules``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):  # the modules without their memory
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linear = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
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


def _adapted(linear: dict[str, tuple[int, int]], lora: LoraConfig) -> tuple[tuple[int, int], ...]:
    if lora.target_modules == "all-linear":
        return tuple(linear.values())
    names = {name.rpartition(".")[2] for name in linear}
    unknown = sorted(set(lora.target_modules) - names)
    if unknown:
        raise ConfigurationError(
            f"lora.target_modules: the model has no layers named {', '.join(unknown)}. It has: {', '.join(sorted(names))}."
        )
    return tuple(size for name, size in linear.items() if name.rpartition(".")[2] in lora.target_modules)
