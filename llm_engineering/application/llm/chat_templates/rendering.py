"""Conversations as text, and where in it the assistant speaks."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import StrictUndefined, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llm_engineering.application.llm.chat_templates import escaping
from llm_engineering.application.ports import Message
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError

_HASH_DIGITS = 12
_GENERATION_TAGS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


class TextSpan(NamedTuple):
    """Characters ``[start, end)``."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation in a template's format."""

    text: str
    """With the family's BOS where its template writes one: tokenize it with ``add_special_tokens=False``."""
    answers: tuple[TextSpan, ...]
    """Where each assistant's turn stands in ``text``: its words and the stop token, nothing of the header."""
    bos: str = ""
    """The BOS that ``text`` begins with; empty: none."""

    @property
    def text_without_bos(self) -> str:
        """For a server that puts BOS in front by itself."""
        return self.text[len(self.bos) :]


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """One version of a family's template."""

    name: str
    version: int
    source: str
    """Jinja, for ``tokenizer.chat_template``. It knows ``messages``, ``add_generation_prompt``, ``bos_token``, ``eos_token``."""
    bos: str
    """What the family calls BOS; empty: its template writes none."""
    eos: str
    """What the family calls EOS."""
    stop: str
    """The token that ends every answer, and that a server stops at."""
    stop_is_eos: bool = False
    """Whether the format has no stop token of its own and uses the tokenizer's EOS, whatever that is."""

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits over all that decides the text: the definition, and how marks are escaped."""
        parts = (self.name, self.version, self.source, self.bos, self._own_eos, escaping.RULES)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_HASH_DIGITS]

    @property
    def portable(self) -> str:
        """The source without ``{% generation %}``, for engines that do not know this tag. It renders the same text."""
        return _GENERATION_TAGS.sub("", self.source)

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """What a tokenizer must hold as one token each, so that the format is no mere text to it."""
        quoted = set(re.findall(r"<\|[a-z_]+\|>|<[a-z_]+_turn>", self.source))
        return tuple(sorted(quoted | {self.stop} | ({self.bos} if self.bos else set())))

    def for_eos(self, eos: str) -> "ChatTemplate":
        """Return the same template for a tokenizer with this EOS. The hash stays: EOS is the tokenizer's, and travels
        with it."""
        return replace(self, eos=eos, stop=eos if self.stop_is_eos else self.stop)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> RenderedChat:
        """Return the conversation as text.

        Marks of templates inside the messages are escaped (see ``escaping``). A blank system message counts as none.

        Args:
            messages: an optional system message, then user and assistant by turns, the user first.
            add_generation_prompt: end with the header of the assistant's turn, for a model to go on from.

        Raises:
            InvalidInputError: the messages are not such a conversation.
        """
        turns = [message for message in messages if message.role != "system" or message.content.strip()]
        _check_order(turns, add_generation_prompt)
        content = [{"role": turn.role, "content": escaping.escape_markers(turn.content)} for turn in turns]
        mark = _absent_mark([turn["content"] for turn in content])
        marked = _compiled(self.source).render(
            messages=content,
            add_generation_prompt=add_generation_prompt,
            bos_token=self.bos,
            eos_token=self.eos,
            spoken=lambda text: f"{mark}{text}{mark}",
        )
        text, answers = _without_marks(marked, mark)
        return RenderedChat(text, answers, self.bos)

    @property
    def _own_eos(self) -> str:
        """EOS as the definition has it, whatever a tokenizer's is."""
        return _FAMILIES[self.name].eos


class _Family(NamedTuple):
    bos: str
    eos: str
    stop: str


_FAMILIES = {
    "alpaca": _Family("", "</s>", "</s>"),
    "chatml": _Family("", "<|im_end|>", "<|im_end|>"),
    "gemma": _Family("<bos>", "<eos>", "<end_of_turn>"),
    "llama3": _Family("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    "phi3": _Family("", "<|endoftext|>", "<|end|>"),
}
_CURRENT = {"alpaca": 1, "chatml": 1, "gemma": 1, "llama3": 1, "phi3": 1}
_EOS_AS_STOP = {"alpaca"}


def template_names() -> tuple[str, ...]:
    """Return the families there are."""
    return tuple(sorted(_FAMILIES))


@lru_cache(maxsize=32)
def load_template(name: str, version: int | None = None) -> ChatTemplate:
    """Return a template by family; None: its current version.

    Raises:
        ConfigurationError: there is none of that name or version.
    """
    if name not in _FAMILIES:
        raise ConfigurationError(
            f"There is no chat template '{name}'. There are: {', '.join(template_names())}."
        )
    chosen = version or _CURRENT[name]
    file = files(__package__) / f"{name}.v{chosen}.jinja"
    if not file.is_file():
        raise ConfigurationError(f"The chat template '{name}' has no version {chosen}.")
    family = _FAMILIES[name]
    source = file.read_text(encoding="utf-8").rstrip("\n")
    return ChatTemplate(name, chosen, source, *family, stop_is_eos=name in _EOS_AS_STOP)


def _check_order(turns: Sequence[Message], add_generation_prompt: bool) -> None:
    spoken = turns[1:] if turns and turns[0].role == "system" else turns
    for number, turn in enumerate(spoken):
        expected = "assistant" if number % 2 else "user"
        if turn.role != expected:
            raise InvalidInputError(
                f"Expected user and assistant by turns, the user first and a system message only at the beginning; "
                f"the roles are: {', '.join(message.role for message in turns)}."
            )
    if not spoken:
        raise InvalidInputError("A conversation needs a user's message; there is none.")
    if add_generation_prompt and spoken[-1].role == "assistant":
        raise InvalidInputError(
            "There is nothing to answer: the last message is the assistant's, and a reply was to begin."
        )


# --- finding the answers ---------------------------------------------------------------------------------------------


def _absent_mark(texts: Sequence[str]) -> str:
    """A character that stands in none of the texts, to mark places with; from a plane that no text uses, mostly the first."""
    used = set().union(*texts)
    return next(chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in used)


def _without_marks(marked: str, mark: str) -> tuple[str, tuple[TextSpan, ...]]:
    pieces = marked.split(mark)
    text, answers = "", []
    for number, piece in enumerate(pieces):
        if number % 2:
            answers.append(TextSpan(len(text), len(text) + len(piece)))
        text += piece
    return text, tuple(answers)


class _Generation(Extension):
    """``{% generation %}…{% endgeneration %}``: what stands inside is handed to ``spoken`` of the render call."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_spoken", [nodes.Name("spoken", "load")])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    @staticmethod
    def _spoken(spoken: Callable[[str], str], caller: Callable[[], str]) -> str:
        return spoken(caller())


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    # Whitespace as transformers sets it, so that one file renders the same text here and there.
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation],
    )


@lru_cache(maxsize=32)
def _compiled(source: str) -> Any:
    return _environment().from_string(source)
