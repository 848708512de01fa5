"""Rendering of the template files in this folder."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, cast

from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llm_engineering.application.llm.prompts.fences import make_inert
from llm_engineering.application.ports import Message
from llm_engineering.domain.errors import ConfigurationError

_FILE = re.compile(r"(?P<name>[a-z][a-z0-9_]*)\.v(?P<version>\d+)\.jinja")
_BLOCK = re.compile(r"(?P<role>system|user|assistant)(?:_\d+)?")
_HASH_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Template:
    """One version of a prompt."""

    name: str
    version: int
    text: str
    """The file, as a prompt library keeps it."""
    values: tuple[str, ...]
    """Names that :func:`render` must be given, sorted."""

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits over name, version and text."""
        named = f"{self.name}\x00{self.version}\x00{self.text}"
        return hashlib.sha256(named.encode()).hexdigest()[:_HASH_DIGITS]


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    # No autoescape: prompts are no HTML, and `&lt;` would reach the model as such. Values are data and never compiled;
    # the sandbox is for templates that come back from a prompt library.
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters["inert"] = make_inert
    return environment


@lru_cache(maxsize=1)
def _library() -> dict[tuple[str, int], Template]:
    found = {}
    for file in files(__package__).iterdir():
        if match := _FILE.fullmatch(file.name):
            text = file.read_text(encoding="utf-8")
            undeclared = meta.find_undeclared_variables(_environment().parse(text))
            one = Template(match["name"], int(match["version"]), text, tuple(sorted(undeclared)))
            found[one.name, one.version] = one
    return found


def list_prompts() -> list[Template]:
    """Return every version of every prompt, by name and version."""
    return [_library()[key] for key in sorted(_library())]


def load_prompt(name: str, version: int) -> Template:
    """Return one version of a prompt.

    Raises:
        ConfigurationError: there is none of that name or version.
    """
    try:
        return _library()[name, version]
    except KeyError:
        there = ", ".join(f"{one.name} v{one.version}" for one in list_prompts())
        raise ConfigurationError(f"There is no prompt '{name}' v{version}. There are: {there}.") from None


def prompt_hash(name: str, version: int) -> str:
    """Return the hash that names a prompt in answers and traces, so that an answer leads to the words that asked for it.

    Raises:
        ConfigurationError: there is none of that name or version.
    """
    return load_prompt(name, version).hash


def render(name: str, version: int, **values: Any) -> list[Message]:
    """Return the messages of a prompt; blocks that come out empty make none.

    Raises:
        ConfigurationError: there is no such prompt, a value is missing, or one is given that it does not know.
    """
    chosen = load_prompt(name, version)
    if missing := sorted(set(chosen.values) - values.keys()):
        raise ConfigurationError(f"The prompt '{name}' v{version} was not given: {', '.join(missing)}.")
    if unknown := sorted(values.keys() - set(chosen.values)):
        raise ConfigurationError(f"The prompt '{name}' v{version} knows no value: {', '.join(unknown)}.")
    try:
        return list(_messages(chosen, values))
    except TemplateError as error:
        raise ConfigurationError(f"The prompt '{name}' v{version} cannot be rendered: {error}.") from error


@lru_cache(maxsize=32)
def _compiled(text: str) -> Any:
    return _environment().from_string(text)


def _messages(chosen: Template, values: dict[str, Any]) -> Iterator[Message]:
    compiled = _compiled(chosen.text)
    for block, function in compiled.blocks.items():
        match = _BLOCK.fullmatch(block)
        if match is None:
            raise ConfigurationError(
                f"The prompt '{chosen.name}' v{chosen.version} has a block '{block}'; "
                "blocks are named system, user or assistant, with a number behind where there are several."
            )
        content = "".join(function(compiled.new_context(values))).strip()
        if content:
            yield Message(cast(Literal["system", "user", "assistant"], match["role"]), content)
