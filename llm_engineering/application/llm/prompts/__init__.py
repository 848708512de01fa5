"""Prompts as versioned template files, rendered the same way for serving and for training.

A file ``NAME.vN.jinja`` holds one block for each message, named after its role (``system``, ``user``, ``assistant``; a
suffix tells several of one role apart: ``user_2``). A version that has served is never edited: a new one is added, so
that a hash in an old trace still leads to the words that were used.
"""

from llm_engineering.application.llm.prompts.fences import Shown, make_inert, present_source
from llm_engineering.application.llm.prompts.rendering import (
    Template,
    list_prompts,
    load_prompt,
    prompt_hash,
    render,
)

__all__ = [
    "Shown",
    "Template",
    "list_prompts",
    "load_prompt",
    "make_inert",
    "present_source",
    "prompt_hash",
    "render",
]
