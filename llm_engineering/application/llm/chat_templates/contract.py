"""The template contract: who works together must mean the same template."""

from dataclasses import dataclass

from llm_engineering.application.llm.chat_templates.rendering import load_template
from llm_engineering.domain.errors import TemplateMismatchError


@dataclass(frozen=True, slots=True)
class TemplateUse:
    """A template as one side states it."""

    where: str
    """Which side, as a reader knows it: ``the data set tweets@3f2a``, ``the training run``."""
    name: str
    hash: str

    @classmethod
    def of_this_version(cls, where: str, name: str) -> "TemplateUse":
        """Return what the template of that name is in the code that runs now.

        Raises:
            ConfigurationError: there is no template of that name.
        """
        return cls(where, name, load_template(name).hash)


def check_contract(first: TemplateUse, second: TemplateUse) -> None:
    """Refuse to go on where two sides mean different templates.

    Raises:
        TemplateMismatchError: name or hash differ; the message names both sides.
    """
    if (first.name, first.hash) == (second.name, second.hash):
        return
    remedy = (
        "Both have the same name, so its definition changed between them: make the older side again."
        if first.name == second.name
        else "Set the same chat template on both, or make one of them again."
    )
    raise TemplateMismatchError(
        f"Chat templates differ: {first.where} has '{first.name}' ({first.hash}), {second.where} has '{second.name}' "
        f"({second.hash}). A model would read another format than the one it learned. {remedy}"
    )
