"""Sanitise what comes in, and stop a model that repeats itself.

Input: remove invisible characters, mask personal data, cut long histories. There is no filter for prompt injection: it
would refuse honest questions about the subject and stop no attacker. Sources and questions are data to the prompt, and
answers are checked against the sources.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from llm_engineering.application.ports import Message
from llm_engineering.application.text.pii import mask_personal_data
from llm_engineering.domain.documents import Model
from llm_engineering.domain.retrieval import MAX_QUESTION_CHARACTERS, Query


class GuardConfig(Model):
    """The input guard. That a question is neither empty nor too long is checked whatever stands here."""

    enabled: bool = True
    mask_personal_data: bool = True
    """Mask e-mail addresses and phone numbers in the question and its history, before any model or log sees them."""
    max_history: int = Field(default=20, ge=0)
    """Turns of the conversation that are kept, the latest."""
    max_turn_characters: int = Field(default=MAX_QUESTION_CHARACTERS, ge=1)
    """Of each turn of the conversation; what lies beyond is cut off."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """What the guard let through."""

    query: Query
    history: tuple[Message, ...] = ()
    notes: tuple[str, ...] = ()
    """``invisible_characters_removed``, ``personal_data_masked``, ``history_cut``."""


def guard(query: Query, history: Sequence[Message], config: GuardConfig) -> Guarded:
    """Return the query and its history, made harmless. Guarding what was guarded changes nothing.

    Raises:
        InvalidInputError: the question is empty, also once invisible characters are gone, or too long.
    """
    if not config.enabled:
        return Guarded(query.model_copy(update={"text": Query.ask(query.text).text}), tuple(history))
    run = _Run(config)
    question = Query.ask(run.harmless(Query.ask(query.text).text)).text
    kept = history[-config.max_history :] if config.max_history else ()
    turns = [Message(turn.role, run.harmless(run.cut(turn.content))) for turn in kept]
    if len(kept) < len(history):
        run.notes["history_cut"] = None
    return Guarded(
        query=query.model_copy(update={"text": question}),
        history=tuple(turn for turn in turns if turn.content.strip()),
        notes=tuple(run.notes),
    )


class _Run:
    """One request's texts on their way through. Dicts without values keep the order of first appearance."""

    def __init__(self, config: GuardConfig) -> None:
        self.notes: dict[str, None] = {}
        self._config = config

    def cut(self, text: str) -> str:
        if len(text) <= self._config.max_turn_characters:
            return text
        self.notes["history_cut"] = None
        return text[: self._config.max_turn_characters]

    def harmless(self, text: str) -> str:
        composed = unicodedata.normalize("NFC", text)
        visible = clean_text(composed)
        if visible != composed:
            self.notes["invisible_characters_removed"] = None
        if not self._config.mask_personal_data:
            return visible
        masked = _masked(visible)
        if masked != visible:
            self.notes["personal_data_masked"] = None
        return masked


def _masked(text: str) -> str:
    # To the end: a mask can part what was too long to be taken for an address before. Each round removes an @, digits or
    # invisible characters, and adds none, so it ends.
    while (masked := clean_text(mask_personal_data(text))) != text:
        text = masked
    return text


# --- invisible characters --------------------------------------------------------------------------------------------

_JOINERS = "\u200c\u200d"
_BLANKS = dict.fromkeys(map(ord, "\u115f\u1160\u2800\u3164\uffa0"), " ")
"""Letters and marks that are drawn as nothing; they would join what looks like two words."""
_HIDDEN_MARKS = frozenset([*range(0xE0100, 0xE01F0), 0x034F, *range(0xFE00, 0xFE0E)])
"""Variation selectors that carry bytes rather than looks, and the grapheme joiner. U+FE0E and U+FE0F choose between text
and emoji, and stay."""


def clean_text(text: str) -> str:
    """Return the text as a reader sees it, composed (NFC).

    Control and format characters go: bidirectional overrides, zero-width spaces, tags, lone surrogates. Line breaks and
    tabs stay. Joiners stay where scripts and emoji need them, which is behind a character beyond ASCII.
    """
    text = unicodedata.normalize("NFC", text)
    if text.isascii() and text.isprintable():
        return text
    kept: list[str] = []
    last = ""
    for character in text.translate(_BLANKS):
        if not _is_visible(character, last):
            continue
        kept.append(character)
        last = character
    return unicodedata.normalize("NFC", "".join(kept))


def _is_visible(character: str, last: str) -> bool:
    if character in "\t\n\r":
        return True
    if character in _JOINERS or character in "\ufe0e\ufe0f":
        return last > "\x7f" and not last.isspace() and last not in _JOINERS and last != character
    category = unicodedata.category(character)
    return category not in ("Cc", "Cf", "Cs") and ord(character) not in _HIDDEN_MARKS


_LONGEST_WORD = 400


class LoopGuard:
    """Notices a text that goes in circles: the same words again and again, with nothing between.

    A long run of words counts as a loop when it comes a second time, a short one when it comes a third, one or two words
    after six repetitions.
    """

    LONGEST = 40
    """Words of the longest circle that is noticed."""

    def __init__(self, patience: int = 1) -> None:
        self._patience = patience
        self._words: list[str] = []
        self._equal = [0] * (self.LONGEST + 1)
        self._word = ""

    def feed(self, text: str) -> int | None:
        """Return the character before which the text is to end, because it goes in circles by then; None where it does
        not."""
        for position, character in enumerate(text):
            wide = "\u3040" <= character <= "\u9fff"
            if character.isalnum() and not wide:
                self._word += character.casefold()
                if len(self._word) > _LONGEST_WORD:
                    return position
                continue
            word, self._word = self._word, ""
            if (word and self._ends(word)) or (wide and self._ends(character)):
                return position
        return None

    def _ends(self, word: str) -> bool:
        self._words.append(word)
        del self._words[: -self.LONGEST - 1]
        looped = False
        for period in range(1, len(self._words)):
            same = self._words[-1 - period] == word
            self._equal[period] = self._equal[period] + 1 if same else 0
            looped = looped or self._equal[period] >= self._needed(period)
        return looped

    def _needed(self, period: int) -> int:
        if period <= 2:
            return 6 * period * self._patience
        return (period if period >= 8 else 2 * period) * self._patience
