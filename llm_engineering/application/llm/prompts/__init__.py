"""Prompts as versioned template files, rendered the same way for serving and for training.

A file ``NAME.vN.jinja`` holds one block for each message, named after its role (``system``, ``user``, ``assistant``; a
suffix tells several of one role apart: ``user_2``). A version that has served is never edited: a new one is added, so
that a hash in an old trace still leads to the words that were used.
"""

from llm_engineering.application.llm.prompts.fences import Shown, inert, shown
from llm_engineering.application.llm.prompts.rendering import (
    Template,
    prompt_hash,
    render,
    template,
    templates,
)

__all__ = ["Shown", "Template", "inert", "prompt_hash", "render", "shown", "template", "templates"]
