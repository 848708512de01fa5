"""The tokenizer inside a GGUF file, so that llama.cpp makes the same tokens as training did."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_engineering.application.llm.chat_templates import ChatTemplate
from llm_engineering.domain.errors import ConfigurationError

_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Llama 3 splits text into words, as its ``tokenizer.json`` states it."""
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def add_vocabulary(writer: Any, folder: Path, template: ChatTemplate, size: int) -> None:
    """Write tokens, merges, control tokens and the chat template.

    BOS is never added by llama.cpp: where a family has one, the chat template writes it, and two would be one too many.

    Args:
        size: rows of the model's embedding; tokens above the tokenizer's are filled up as unused.

    Raises:
        ConfigurationError: the tokenizer is of a kind that llama.cpp has no name for.
    """
    from transformers import AutoTokenizer

    told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    split = _splitting(told)
    tokens, kinds = _tokens(told, size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([_merge(merge) for merge in told["model"]["merges"]])
    for kind in ("bos", "eos", "pad"):
        number = getattr(tokenizer, f"{kind}_token_id")
        if number is not None:
            getattr(writer, f"add_{kind}_token_id")(number)
    chosen = template.for_eos(tokenizer.eos_token)
    writer.add_eot_token_id(tokenizer.convert_tokens_to_ids(chosen.stop))
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(chosen.portable)


def _splitting(told: Mapping[str, Any]) -> str:
    """llama.cpp's name for the way a tokenizer splits text before BPE."""
    model = told["model"]
    normalizer = told.get("normalizer")
    if model.get("type") != "BPE":
        raise _refused(f"it is of the type {model.get('type')}; byte-level BPE can be converted")
    if normalizer and normalizer.get("normalizers", [normalizer]):
        raise _refused(f"it normalizes text ({normalizer.get('type')})")
    steps = told.get("pre_tokenizer") or {}
    parts = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    match [_step(part) for part in parts]:
        case ["bytes with words"]:
            return "gpt-2"
        case ["digits", "bytes with words"]:
            return "smollm"
        case ["llama 3 words", "bytes"] if model.get("ignore_merges"):
            return "llama-bpe"
    kinds = ", ".join(str(part.get("type")) for part in parts)
    raise _refused(f"it splits text in a way that is not known here ({kinds})")


def _step(part: Mapping[str, Any]) -> str:
    match part:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": words}:
            return "bytes with words" if words else "bytes"
        case {"type": "Digits", "individual_digits": True}:
            return "digits"
        case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated", "invert": False}:
            return "llama 3 words" if regex == _LLAMA3 else "words"
    return "?"


def _tokens(told: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    tokens = [f"[UNUSED{number}]" for number in range(size)]
    kinds = [_UNUSED] * size
    added = {entry["id"]: entry for entry in told["added_tokens"]}
    known = {number: token for token, number in told["model"]["vocab"].items()}
    known |= {number: entry["content"] for number, entry in added.items()}
    if known and max(known) >= size:
        raise _refused(f"it has the token {max(known)}, and the model's embedding {size} rows")
    for number, token in known.items():
        tokens[number] = token
        kinds[number] = _NORMAL
        if number in added:
            kinds[number] = _CONTROL if added[number]["special"] else _USER_DEFINED
    return tokens, kinds


def _merge(merge: Any) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)


def _refused(reason: str) -> ConfigurationError:
    return ConfigurationError(f"This tokenizer cannot be converted to GGUF here: {reason}.")
