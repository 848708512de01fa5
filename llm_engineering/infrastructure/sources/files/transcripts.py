"""Transcripts of calls: WebVTT, SubRip, and what Teams and Zoom save as text. Who spoke stays before what was said."""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llm_engineering.infrastructure.sources.files.writings import Limits, UnreadableError, Writing
from llm_engineering.infrastructure.sources.git.selection import decode as decode_text

_TIME = r"(?:\d{1,3}:)?\d{1,2}:\d{1,2}(?:[.,]\d{1,3})?"
_TIMING = re.compile(rf"^\s*({_TIME})\s*-->\s*{_TIME}(?:\s.*)?$")
_UNPADDED = re.compile(r"^\d{1,2}:\d:|:\d(?:\.\d+)?$")
"""Teams writes 0:0:3.48, and the speaker on a line of their own."""
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]{1,100})>")
_TAG = re.compile(r"</?[a-z0-9:.][^<>]{0,100}>|\{\\[^}]{0,50}\}", re.IGNORECASE)
_NAMED = re.compile(r"^([^\W\d_][^:<>.!?]{0,59}):\s+(?=\S)")
_MOST_NAME_WORDS = 5
_BLOCKS = ("NOTE", "STYLE", "REGION")
# A line that says who speaks from here on: Zoom's chat, Zoom's and Otter's transcripts, Teams' download.
_HEADS = (
    re.compile(
        r"^\d{1,2}:\d{2}(?::\d{2})?\s+From\s+(?P<who>.{1,80}?)(?:\s+[Tt]o\s+.{1,80}?)?\s?:\s*(?P<said>.*)$"
    ),
    re.compile(r"^\[(?P<who>[^\]\d][^\]]{0,79})\]\s+\d{1,2}:\d{2}(?::\d{2})?\s*$"),
    re.compile(r"^(?P<who>[^\W\d][^\n:]{0,59}?)\s{2,}\d{1,2}:\d{2}(?::\d{2})?\s*$"),
)


@dataclass(slots=True)
class _Turn:
    speaker: str
    lines: list[str]


def read_transcript(content: bytes, limits: Limits) -> Iterator[Writing]:  # noqa: ARG001 - as the others
    """Yield a transcript with timed lines (.vtt, .srt), a paragraph for each turn of a speaker.

    Raises:
        UnreadableError: nobody says anything in it.
    """
    text = _decode(content)
    turns = _join(_read_cues(text.splitlines()))
    if not turns:
        raise UnreadableError(
            "It is no transcript: no line says from when to when something is said (00:01.000 --> 00:02.000)."
        )
    yield _write(turns)


def find_turns(text: str) -> Writing | None:
    """Return a transcript that lies in a plain text file; None: it is another text."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if _TIMING.match(first):
        turns = _join(_read_cues(lines))
        return _write(turns) if turns else None
    turns, heads = list[_Turn](), 0
    for line in lines:
        if head := next((found for form in _HEADS if (found := form.match(line.strip()))), None):
            heads += 1
            turns.append(_Turn(_name(head["who"]), [head.groupdict().get("said") or ""]))
        elif turns:
            turns[-1].lines.append(line.strip())
        elif line.strip():
            return None
    joined = _join((turn.speaker, line) for turn in turns for line in turn.lines)
    return _write(joined) if heads > 1 and joined else None


def _read_cues(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(speaker or nothing, line) of every cue; rolling captions, which repeat the line before, once."""
    place, before = 0, ""
    while place < len(lines):
        line = lines[place].strip()
        place += 1
        timing = _TIMING.match(line)
        if timing is None:
            if line.split(" ")[0] in _BLOCKS:  # to the next blank line
                while place < len(lines) and lines[place].strip():
                    place += 1
            continue
        said = []
        while place < len(lines) and lines[place].strip() and not _TIMING.match(lines[place]):
            said.append(lines[place].strip())
            place += 1
        if place < len(lines) and _TIMING.match(lines[place]) and said and said[-1].isdigit():
            said.pop()  # the number of the next cue, where no blank line stands before it
        speaker, voiced = "", False
        if len(said) > 1 and _UNPADDED.search(timing[1]):
            speaker, voiced = _name(said.pop(0)), True
        for one in said:
            if voice := _VOICE.search(one):
                speaker, voiced = _name(voice[1]), True
            spoken = " ".join(html.unescape(_TAG.sub("", one)).split())
            named = None if voiced else _NAMED.match(spoken)
            if named and len(named[1].split()) <= _MOST_NAME_WORDS:
                speaker, spoken = _name(named[1]), spoken[named.end() :]
            if spoken and spoken != before:
                yield speaker, spoken
            before = spoken or before


def _join(said: Iterator[tuple[str, str]]) -> list[_Turn]:
    """Turns of speakers: lines without one belong to who spoke last."""
    turns: list[_Turn] = []
    for speaker, line in said:
        if not line.strip():
            continue
        if turns and speaker in ("", turns[-1].speaker):
            turns[-1].lines.append(line)
        else:
            turns.append(_Turn(speaker, [line]))
    return turns


def _write(turns: Sequence[_Turn]) -> Writing:
    paragraphs = [(f"**{turn.speaker}:** " if turn.speaker else "") + " ".join(turn.lines) for turn in turns]
    return Writing(
        "\n\n".join(paragraphs), platform="transcript", category="article", facts={"channel": "call"}
    )


def _name(text: str) -> str:
    return " ".join(html.unescape(text).split()).strip("*: ")


def _decode(content: bytes) -> str:
    found = decode_text(content)
    if found is None:
        raise UnreadableError("It is a binary file, no text.")
    return found[0].lstrip("\ufeff")
