"""Save adapter, merged weights and tokenizer. Folders are renamed into place, so each is complete or absent."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_engineering.application.llm.chat_templates import ChatTemplate
from llm_engineering.application.training.finetune.config import TrainingConfig

ADAPTER, MERGED, TOKENIZER = "adapter", "merged", "tokenizer"


def save_result(
    model: Any, tokenizer: Any, template: ChatTemplate, config: TrainingConfig, folder: Path
) -> None:
    """Write ``tokenizer/``, and ``adapter/`` or, with method full, the whole model in ``merged/``."""
    settings = generation_settings(tokenizer, template)
    told = prepare_tokenizer(tokenizer, template)

    def save_tokenizer(target: Path) -> None:
        told.save_pretrained(target)
        settings.save_pretrained(target)

    def save_model(target: Path) -> None:
        if config.method == "full":
            model.generation_config = settings
            model.save_pretrained(target)
            told.save_pretrained(target)
            return
        for one in model.peft_config.values():
            one.base_model_name_or_path = (
                config.base_model
            )  # by its name: a path of this machine means nothing elsewhere
        # Embeddings are not trained; asked to decide that itself, PEFT would look for the base on the hub.
        model.save_pretrained(target, save_embedding_layers=False)
        (target / "README.md").unlink(
            missing_ok=True
        )  # PEFT's blank form; the project's own card tells of the model

    _whole(folder / TOKENIZER, save_tokenizer)
    _whole(folder / (MERGED if config.method == "full" else ADAPTER), save_model)


def prepare_tokenizer(tokenizer: Any, template: ChatTemplate) -> Any:
    """Return the tokenizer as the model is to be served with: our template, and EOS where an answer stops."""
    tokenizer.chat_template = template.source
    if "eos_token" not in template.source:
        tokenizer.eos_token = template.stop
    return tokenizer


def generation_settings(tokenizer: Any, template: ChatTemplate) -> Any:
    """Return settings that end generation at the template's stop token, and at the tokenizer's own EOS."""
    from transformers import GenerationConfig

    stops = {tokenizer.convert_tokens_to_ids(template.stop), tokenizer.eos_token_id}
    return GenerationConfig(
        eos_token_id=sorted(stops), pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )


def _whole(target: Path, write: Callable[[Path], None]) -> None:
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
