"""What comes in from outside is made harmless before anything is done with it, and before it leaves the machine.

Invisible characters go, personal data is masked, and phrases that try to steer the model are noted. Noted, not blocked:
such a phrase is a legitimate question in a collection about prompt injection, and a filter that refuses would be a false
promise of safety. What really protects is that sources and questions are data to the prompt, and that answers are checked.
"""

import re
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
    note_injections: bool = True
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
    """``invisible_characters_removed``, ``personal_data_masked``, ``injection_signal``, ``history_cut``."""
    signals: tuple[str, ...] = ()
    """Names of the kinds of injection that were noted."""


def guard(query: Query, history: Sequence[Message], config: GuardConfig) -> Guarded:
    """The query and its history, made harmless. Guarding what was guarded changes nothing.

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
    if run.signals:
        run.notes["injection_signal"] = None
    return Guarded(
        query=query.model_copy(update={"text": question}),
        history=tuple(turn for turn in turns if turn.content.strip()),
        notes=tuple(run.notes),
        signals=tuple(run.signals),
    )


class _Run:
    """One request's texts on their way through. Dicts without values keep the order of first appearance."""

    def __init__(self, config: GuardConfig) -> None:
        self.notes: dict[str, None] = {}
        self.signals: dict[str, None] = {}
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
        if self._config.note_injections:
            self.signals |= dict.fromkeys(injection_signals(visible))
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
    """The text as a reader sees it, composed (NFC).

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


# --- signs of prompt injection ---------------------------------------------------------------------------------------

_OURS = (
    r"(?:instructions?|prompts?|rules?|guidelines?|directions?|directives?|constraints?|messages?|context)"
)
_EARLIER = (
    r"(?:previous|prior|above|earlier|preceding|foregoing|all|any|your|these|those|system|initial|original)"
)
_HIDDEN = r"(?:(?:your|the|this|its)\W+(?:system|initial|original|developer|internal)|hidden|secret)"


def _some(most: int) -> str:
    """At most so many words; bounded, so that no text takes long to be searched."""
    return rf"(?:\W+\w+){{0,{most}}}?\W+"


_PATTERNS: dict[str, tuple[str, ...]] = {
    "override": (
        r"\b(?:ignore|disregard|forget|override|bypass|drop|skip)\b"
        rf"{_some(4)}{_EARLIER}\W+(?:\w+\W+){{0,2}}?{_OURS}\b",
        r"\b(?:ignore|disregard|forget)\W+(?:\w+\W+)?(?:everything|anything|all)"
        rf"{_some(2)}(?:above|before|earlier|prior|previous\w*|told|said)\b",
        rf"\b(?:do\s+not|don'?t|never|stop)\s+(?:follow|obey|listen\s+to|heed)\w*{_some(3)}{_OURS}\b",
        r"\b(?:new|updated|real|actual)\s+(?:system\s+)?(?:instructions?|prompt|task)\s*(?::|are\b|is\b)",
        rf"\b(?:ignorier\w*|vergiss|vergesst|missachte\w*)\b{_some(5)}(?:anweisung|regel|vorgabe|befehl|prompt)",
        rf"\b(?:ignore[zr]?|oublie[zr]?)\b{_some(4)}(?:instructions|consignes|r[eè]gles)"
        r"\s+(?:pr[eé]c[eé]dente|ant[eé]rieure|ci-dessus)",
        rf"\b(?:ignora|olvida|ignore|olvide)\b{_some(4)}(?:instrucciones|reglas|indicaciones|instru[cç][oõ]es)\b",
    ),
    "prompt_request": (
        r"\b(?:reveal|show|print|repeat|output|display|leak|dump|tell|give|write|recite|quote|translate|summari[sz]e"
        r"|what(?:'s|\s+is|\s+are|\s+were))\b"
        rf"{_some(5)}(?:{_HIDDEN}\W+(?:\w+\W+)?(?:prompts?|instructions?|messages?|rules?)"
        r"|your\W+(?:\w+\W+)?(?:prompt|instructions))\b",
        rf"\b(?:repeat|print|output|copy)\b{_some(4)}(?:text|words|everything|all){_some(2)}(?:above|before|preceding)\b",
    ),
    "role_play": (
        r"\byou\s+are\s+(?:now|no\s+longer)\s+(?:an?|in|free|bound|dan|my|the)\b",
        r"\b(?:act|behave|respond|answer|reply)\s+(?:as\s+if|like|as)\s+"
        r"(?:you\s+(?:are|were|have|had)|an?\s+(?:unrestricted|unfiltered|uncensored|evil|jailbroken)|dan)\b",
        r"\b(?:pretend|imagine)\s+(?:that\s+)?(?:you\s+(?:are|were|have|can)|to\s+be)\b",
        r"\b(?:(?:jail\s?break(?:ed)?|developer|dan|god)\s+mode|do\s+anything\s+now)\b",
        r"\bwithout\s+(?:any\s+)?(?:restrictions?|filters?|censorship|safety|guardrails|limitations)\b",
    ),
    "forged_turn": (
        r"<\|?\s*(?:im_start|im_end|system|endoftext|eot_id|start_header_id)\s*\|?>|\[/?INST\]|<</?SYS>>",
        r"(?:^|\n)[^\S\n]*(?:#{1,4}[^\S\n]*)?(?:system|assistant|developer)"
        r"(?:\s+(?:prompt|message|instruction))?\s?:",
        r"</?\s?(?:source|sources|system|instructions?|context|prompt|user|assistant)\s?>",
    ),
    "exfiltration": (
        r"!\[[^\]]{0,200}\]\(\s?https?://",
        rf"\b(?:send|post|forward|upload|exfiltrate)\b{_some(6)}to\s+https?://",
    ),
    "encoded": (
        rf"\b(?:decode|decrypt|rot13|base64|from\s+hex)\b{_some(6)}(?:and|then)\s+(?:follow|execute|obey|run|do)\b",
    ),
}
_SIGNALS = tuple(
    (name, re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE))
    for name, patterns in _PATTERNS.items()
)


def injection_signals(text: str) -> tuple[str, ...]:
    """Kinds of attempts to steer the model that the text shows signs of, each once.

    ``override`` (forget your instructions), ``prompt_request`` (show your system prompt), ``role_play`` (you are now …),
    ``forged_turn`` (text that passes for the chat's own markup), ``exfiltration``, ``encoded``. Read from the text with
    look-alike forms folded (NFKC). English, with the commonest phrase in German, French, Spanish and Portuguese: a sign is a
    hint for whoever reads the traces, and its absence means nothing.
    """
    folded = unicodedata.normalize("NFKC", text)
    return tuple(name for name, pattern in _SIGNALS if pattern.search(folded))
