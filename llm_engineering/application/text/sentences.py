"""Sentences: of a finished text by their positions, and of a text that is still being written.

Both go by the same rule, :func:`ends_before`, so that an answer is cut into the same sentences however its pieces came.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm_engineering.application.text.markdown import Kind, markdown_blocks, sentence_starts

UnitKind = Literal["sentence", "heading", "table", "code"]

_CLOSERS = "\"'”’»«)]*_」』）】〉》"
# Full stops of scripts that text_structure does not know (Arabic, Urdu, Devanagari, Khmer, Ethiopic) stand without doubt.
_FOREIGN_STOP = re.compile(rf"[؟۔।॥។።][{re.escape(_CLOSERS)}]{{0,3}}$")
_WIDE_STOP = re.compile(rf"[。！？｡][{re.escape(_CLOSERS)}]{{0,2}}$")
_LATIN_STOP = re.compile(rf"[.!?…][{re.escape(_CLOSERS)}]{{0,3}}$")
_LIST_NUMBER = re.compile(r"^\s*(?:[-*+>•]\s+)*(?:\d{1,3}|[a-zA-Z])[.)]$")
_GERMAN_ORDINAL = re.compile(
    r"\b(?:am|der|den|dem|des|vom|zum|im|die|das|beim|bis|seit|ab|jede[rsmn]?)\s+\d{1,2}\.$", re.IGNORECASE
)
_TAIL = 60
"""Characters before a full stop that decide whether it ends a sentence."""
_LINE_KIND = re.compile(r"\s*(?:(?P<heading>#{1,6}(?:\s|$))|(?P<table>\|))")


def ends_before(sentence: str, space: str, following: str) -> bool:
    """Return whether a sentence ends where ``space`` separates it from the character ``following``.

    "e.g. this", "3.5", "Dr. Who", "am 3. Mai" and the number of a list item do not end one; full-width stops need no space.
    """
    tail = sentence[-_TAIL:]
    if following in _CLOSERS and not space:
        return False
    if _WIDE_STOP.search(tail):
        return True
    if not space:
        return False
    if _FOREIGN_STOP.search(tail):
        return True
    if not _LATIN_STOP.search(tail) or _LIST_NUMBER.match(sentence) or _GERMAN_ORDINAL.search(tail):
        return False
    probe = f"{tail} {following}"
    return len(tail) + 1 in sentence_starts(probe, 0, len(probe))


def line_kind(line: str) -> UnitKind:
    """Return what a line of Markdown outside of code is, by its beginning."""
    match = _LINE_KIND.match(line)
    return "sentence" if match is None else "heading" if match["heading"] is not None else "table"


# --- of a finished text ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unit:
    """Characters ``[start, end)`` of a text that say one thing: a sentence, a heading, a row, a line of code."""

    start: int
    end: int
    kind: UnitKind


_KINDS: dict[Kind, UnitKind] = {
    Kind.HEADING: "heading",
    Kind.TABLE: "table",
    Kind.CODE: "code",
    Kind.TEXT: "sentence",
}
_NEW_LINE = re.compile(r"\n(?=[ \t]*(?:[-*+•>]|\d{1,3}[.)])[ \t])")
_MAYBE_END = re.compile(
    rf"[.!?…؟۔।॥።።。！？｡][{re.escape(_CLOSERS)}]{{0,3}}(?=\s|[^\s{re.escape(_CLOSERS)}])"
)


def split_units(text: str) -> list[Unit]:
    """Return the units of a Markdown text, in order, without white space around them. Lines that wrap belong together."""
    found: list[Unit] = []
    for block in markdown_blocks(text):
        kind = _KINDS[block.kind]
        ends = _sentence_ends if kind == "sentence" else _line_ends
        start = block.start
        for end in (*ends(text, block.start, block.end), block.end):
            stripped = text[start:end].strip()
            if any(character.isalnum() for character in stripped):
                begin = start + text[start:end].index(stripped)
                found.append(Unit(begin, begin + len(stripped), kind))
            start = end
    return found


def _line_ends(text: str, start: int, end: int) -> Iterator[int]:
    position = text.find("\n", start, end)
    while position >= 0:
        yield position + 1
        position = text.find("\n", position + 1, end)


def _sentence_ends(text: str, start: int, end: int) -> list[int]:
    cuts = [match.end() for match in _NEW_LINE.finditer(text, start, end)]
    begin = start
    for match in _MAYBE_END.finditer(text, start, end):
        after = match.end()
        while after < end and text[after].isspace():
            after += 1
        if after < end and ends_before(text[begin : match.end()], text[match.end() : after], text[after]):
            cuts.append(after)
            begin = after
    return sorted(set(cuts))


# --- of a text that is being written ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Words:
    """Text of the sentence under way, to be shown as it is."""

    text: str
    code: bool = False
    """Inside a fenced block."""


@dataclass(frozen=True, slots=True)
class Marker:
    """A citation marker, complete, with the blank space before it."""

    space: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class End:
    """The sentence under way is over; the white space behind it comes with the next :class:`Words`."""

    kind: UnitKind


Item = Words | Marker | End

_LONGEST_MARKER = 32
_IN_MARKER = re.compile(r"[\[【]\^?(?:\s|\d|[,;–†#\-—]|[A-Za-zà-ÿ:.L])*[\]】]?")
_MARKER = re.compile(
    r"[\[【]\^?\s*(?:(?:sources?|quellen?|fuentes?|fonte|refs?\.?)\s*:?\s*)?#?"
    r"(?P<numbers>\d{1,3}(?:\s*(?:[,;]|[-–—])\s*#?\d{1,3})*)\s*(?:†[^\]】]*)?[\]】]",
    re.IGNORECASE,
)
_RANGE = re.compile(r"(\d{1,3})(?:\s*[-–—]\s*(\d{1,3}))?")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


class Splitter:
    """Takes in a text piece by piece and hands out its words, citation markers and sentence ends.

    Works character by character, so the items do not depend on how the text was cut, but for how Words are grouped.
    A possible marker is held back until it is complete, white space until it is known what follows.
    """

    def __init__(self) -> None:
        self._sentence = ""
        self._space = ""
        self._bracket = ""
        self._line = ""
        self._fence = ""
        self._ticks = ""
        self._broken = False
        """The line ended, and with it the sentence."""
        self._code = False
        """The sentence under way is a fenced block."""
        self._code_lines = 0
        self._marked = False
        self._out: list[Item] = []

    def feed(self, text: str) -> list[Item]:
        """Return items that are certain by now."""
        for character in text:
            self._take(character)
        return self._taken()

    def close(self) -> list[Item]:
        """Return the rest; blank space at the end of the text is dropped."""
        if self._bracket:
            self._literal(self._bracket)
        self._end()
        self._space = ""
        return self._taken()

    def _taken(self) -> list[Item]:
        items, self._out = self._out, []
        return items

    def _take(self, character: str) -> None:
        if self._bracket:
            self._in_bracket(character)
        elif character.isspace():
            self._blank(character)
        elif character in "[【" and not self._fence and not self._ticks:
            self._bracket = character
        else:
            self._visible(character)

    def _in_bracket(self, character: str) -> None:
        held = self._bracket + character
        if character in "]】" and (match := _MARKER.fullmatch(held)):
            self._bracket = ""
            self._mark(_numbers(match["numbers"]), held)
        elif len(held) <= _LONGEST_MARKER and character not in "]】" and _IN_MARKER.fullmatch(held):
            self._bracket = held
        else:
            self._bracket = ""
            self._literal(held)

    def _literal(self, held: str) -> None:
        """What looked like a marker is none: its bracket is a character like others."""
        self._bracket = ""
        self._visible(held[0])
        for character in held[1:]:
            self._take(character)

    def _mark(self, numbers: tuple[int, ...], held: str) -> None:
        if self._broken:
            self._end()
        self._line += held
        self._marked = True
        self._out.append(Marker(self._space, numbers))
        self._space = ""

    def _blank(self, character: str) -> None:
        self._space += character
        if character != "\n":
            self._line += character
            return
        if self._fence:
            # The opening line is longer than the marks, or it is this one: only a line of marks alone can close.
            bare = self._line.strip()
            closes = bare.startswith(self._fence) and not bare.strip(self._fence[0])
            if closes and self._code_lines:
                self._fence, self._broken = "", True
            self._code_lines += 1
        else:
            self._broken, self._ticks = True, ""
        self._line = ""

    def _visible(self, character: str) -> None:
        inside = self._fence or (self._ticks and not self._broken)
        if not inside and (self._broken or ends_before(self._sentence, self._space, character)):
            self._end()
        text = self._space + character
        self._space = ""
        self._line += character
        self._sentence += text
        if not self._fence:
            if character in "`~" and (match := _FENCE.fullmatch(self._line)) and len(match[1]) == 3:
                self._fence, self._code, self._code_lines, self._ticks = character * 3, True, 0, ""
            elif character == "`" and not self._code:
                self._ticks = "" if self._ticks else "`"
        last = self._out[-1] if self._out else None
        if isinstance(last, Words) and last.code == self._code:
            self._out[-1] = Words(last.text + text, self._code)
        else:
            self._out.append(Words(text, self._code))

    def _end(self) -> None:
        if self._sentence or self._marked:
            kind: UnitKind = "code" if self._code else line_kind(self._sentence.lstrip("\n"))
            self._out.append(End(kind))
        self._sentence, self._ticks = "", ""
        self._broken = self._code = self._marked = False


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers of a marker: "1, 3" and "2-4", ranges written out, each once."""
    found: list[int] = []
    for match in _RANGE.finditer(text):
        first, last = int(match[1]), int(match[2] or match[1])
        found += range(first, last + 1) if first <= last <= first + 20 else [first, last]
    return tuple(dict.fromkeys(found))
