"""The statements of a source: its sentences, headings, rows and lines of code, prepared for comparing."""

import re
from dataclasses import dataclass
from functools import lru_cache

from llm_engineering.application.text.sentences import Unit, units
from llm_engineering.application.text.words import content, grams

SHORTEST, LONGEST = 30, 400
"""Characters of a sentence that is worth quoting."""

_MARKUP = re.compile(r"[`*_#>|]+|!?\[([^\]]*)\]\([^)]*\)")
# Orders to whoever reads the source with a machine. What they say, and what they want said, is evidence of nothing.
_ORDER = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,40}\b(?:instruction|prompt|rule|above|previous|prior|earlier|"
    r"everything)|\byour system prompt\b|\byou (?:are now an?|must now|will now|should now)\b|\bnew instructions?\b|"
    r"\b(?:dear|attention|hey|note to)\b.{0,20}\b(?:ai|assistant|chatbot|language model|llm|gpt)\b|"
    r"^\W*(?:system|assistant|instructions?|ai)\s*:|(?:^\W*|[.:;,!]\s+|\b(?:and|then|please|must|now|always|just|only|to)\s+)(?:say|reply|respond|answer|output|print|write|repeat|tell)\b.{0,30}"
    r"\b(?:exactly|only|verbatim|the following|the user|this text|every question|all questions)\b|"
    r"\b(?:ignorier|vergiss|missachte)\w*\b.{0,40}\b(?:anweisung|regel|vorgabe|bisherig|vorherig|obig)|"
    r"(?:^\W*|[.:;,!]\s+|\b(?:und|dann|bitte|nun|immer)\s+)(?:antworte|sage|schreibe|gib)\b.{0,30}\b(?:genau|nur|ausschließlich|wörtlich)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A unit of a source, prepared for comparing."""

    unit: Unit
    roots: frozenset[str]
    order: bool
    """It tells the reader's machine what to do, or stands right behind such a sentence."""

    @property
    def grams(self) -> frozenset[str]:
        """Runs of letters within its words; made when first asked for, since words mostly decide."""
        return grams(self.roots)


@lru_cache(maxsize=512)
def statements(text: str) -> tuple[Statement, ...]:
    """The statements of a passage, in order. Kept for the passages used last, which questions share."""
    found: list[Statement] = []
    tainted = False
    for unit in units(text):
        said = text[unit.start : unit.end]
        order = _ORDER.search(said) is not None
        roots = content(said)
        found.append(Statement(unit, roots, order or tainted))
        tainted = order
    return tuple(found)


def plain(text: str) -> str:
    """The text without Markdown's marks, on one line."""
    bare = " ".join(_MARKUP.sub(lambda match: match.group(1) or "", text).split())
    return re.sub(r"^[-+•]\s+|^\d+[.)]\s+", "", bare)


def quotable(unit: Unit, text: str) -> bool:
    """Whether a unit can stand alone as an answer: prose, whole, and no question."""
    if unit.kind != "sentence":
        return False
    said = plain(text[unit.start : unit.end])
    return SHORTEST <= len(said) <= LONGEST and said[-1] in ".!。！।۔"
