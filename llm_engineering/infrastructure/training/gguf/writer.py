"""A merged model as a GGUF file for llama.cpp: fp16 weights, the tokenizer, and the project's own chat template.

Only what is sure to compute the same is written: Llama's architecture without biases or scaled positions, and
tokenizers by byte-level BPE whose way of splitting words llama.cpp has under a name. The rest is refused.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.application.llm.chat_templates import ChatTemplate
from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError
from llm_engineering.infrastructure.training.gguf.vocabulary import add_vocabulary

if TYPE_CHECKING:
    import numpy as np

_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def write_gguf(merged: Path, target: Path, template: ChatTemplate, name: str) -> None:
    """Convert a folder of safetensors and tokenizer; the file appears whole or not at all.

    Raises:
        ConfigurationError: architecture or tokenizer are not among those that can be converted; says which part.
        MissingDependencyError: the package ``gguf`` is not installed.
    """
    try:
        from gguf import LlamaFileType
    except ImportError:
        raise MissingDependencyError("gguf", "training", "Writing a model for llama.cpp") from None
    config = json.loads((merged / "config.json").read_text(encoding="utf-8"))
    _check_architecture(config)
    with new_file(target, name) as writer:
        writer.add_file_type(LlamaFileType.MOSTLY_F16)
        _add_shape(writer, config)
        add_vocabulary(writer, merged, template, int(config["vocab_size"]))
        for tensor, weights in _tensors(merged, config):
            writer.add_tensor(tensor, weights)


@contextmanager
def new_file(target: Path, name: str) -> Iterator[Any]:
    """Yield a ``GGUFWriter`` to fill. The file is there after the block, whole; if the block fails, it is not."""
    from gguf import GGUFWriter

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    writer = GGUFWriter(part, "llama")
    try:
        writer.add_name(name)
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except BaseException:
        writer.close()
        part.unlink(missing_ok=True)
        raise
    writer.close()
    part.rename(target)


def _check_architecture(config: Mapping[str, Any]) -> None:
    kind = (config.get("architectures") or ["?"])[0]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaling = rope.get("rope_type", rope.get("type", "default"))
    problems = [
        (kind != "LlamaForCausalLM", f"architecture {kind}; LlamaForCausalLM can be converted"),
        (scaling != "default", f"positions are scaled ('{scaling}')"),
        (config.get("attention_bias") or config.get("mlp_bias"), "its linear layers have biases"),
        (config.get("hidden_act", "silu") != "silu", f"activation {config.get('hidden_act')}"),
    ]
    found = [text for wrong, text in problems if wrong]
    if found:
        raise ConfigurationError(f"This model cannot be converted to GGUF here: {'; '.join(found)}.")


def _add_shape(writer: Any, config: Mapping[str, Any]) -> None:
    heads = int(config["num_attention_heads"])
    head = int(config.get("head_dim") or config["hidden_size"] // heads)
    rope = config.get("rope_parameters") or {}
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(config["vocab_size"])


def _tensors(merged: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, "np.ndarray[Any, Any]"]]:
    import torch
    from safetensors import safe_open

    heads = int(config["num_attention_heads"])
    shared = int(config.get("num_key_value_heads") or heads)
    for file in sorted(merged.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - no mapping, though it has keys
                if key == "lm_head.weight" and config.get("tie_word_embeddings"):
                    continue
                value = weights.get_tensor(key).to(torch.float32)
                if key.endswith("self_attn.q_proj.weight"):
                    value = interleave_rows(value, heads)
                elif key.endswith("self_attn.k_proj.weight"):
                    value = interleave_rows(value, shared)
                # llama.cpp wants vectors in 32 bits.
                yield gguf_name(key), (value if value.ndim == 1 else _halved(key, value)).contiguous().numpy()


def _halved(key: str, weights: Any) -> Any:
    rounded = weights.half()
    if rounded.isinf().any():
        raise ConfigurationError(
            f"This model cannot be converted to GGUF here: {key} has weights beyond the range of fp16."
        )
    return rounded


def interleave_rows(weights: Any, heads: int) -> Any:
    """Return rows of each head reordered: transformers rotates dimension i with i + d/2, llama.cpp's Llama with its
    neighbour."""
    rows, columns = weights.shape
    pairs = weights.reshape(heads, 2, rows // heads // 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def gguf_name(key: str) -> str:
    if key in _NAMES:
        return _NAMES[key]
    prefix, _, rest = key.partition("model.layers.")
    number, _, layer = rest.partition(".")
    kind = layer.removesuffix(".weight")
    if prefix or kind not in _LAYER_NAMES:
        raise ConfigurationError(
            f"This model cannot be converted to GGUF here: it has weights of an unknown name, {key}."
        )
    return f"blk.{number}.{_LAYER_NAMES[kind]}.weight"
