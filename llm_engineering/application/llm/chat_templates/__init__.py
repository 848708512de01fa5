"""Chat templates: one definition each, for training, evaluation and serving.

A file ``NAME.vN.jinja`` is a chat template as ``transformers`` and servers read it, with ``{% generation %}`` around
what the assistant says. A version that a model was trained on is never edited: a new one is added. ``ChatTemplate.hash``
names a definition in data sets, training runs, evaluations and served models; :func:`check_contract` compares two.
"""

from llm_engineering.application.llm.chat_templates.contract import TemplateUse, check_contract
from llm_engineering.application.llm.chat_templates.escaping import escape_markers
from llm_engineering.application.llm.chat_templates.rendering import (
    ChatTemplate,
    RenderedChat,
    TextSpan,
    load_template,
    template_names,
)

__all__ = [
    "ChatTemplate",
    "RenderedChat",
    "TemplateUse",
    "TextSpan",
    "check_contract",
    "escape_markers",
    "load_template",
    "template_names",
]
