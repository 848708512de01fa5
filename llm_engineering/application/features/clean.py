"""Cleaning: text without invalid characters, page furniture and repeated blank space. Never case, never code.

Every rule looks at one character, one line or one paragraph, and every regular expression is bounded or anchored, so
the time is linear in the length of the text. Cleaning twice gives what cleaning once gives, but for
pseudonyms, whose digits may be taken for a number.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Literal

from llm_engineering.application.features.boilerplate import Block, is_indented, without_furniture
from llm_engineering.application.text.markdown import closes_fence, match_fence
from llm_engineering.application.text.pii import mask_personal_data
from llm_engineering.application.text.privacy import PrivacyPolicy
from llm_engineering.domain.categories import Chunking, category_spec
from llm_engineering.domain.documents import CleanDocument, RawDocument, text_hash
from llm_engineering.domain.errors import ExtractionError
from llm_engineering.domain.facets import MetadataValue

CLEANING_VERSION = "3"
"""Part of ``source_hash``: raise it with every change of the rules, and every document is cleaned again."""

PROSE_LANGUAGES = frozenset({"markdown", "md", "restructuredtext", "rst", "text", "txt"})
"""Languages of repository files that are written for people and are chunked like articles."""


def clean(raw: RawDocument, privacy: PrivacyPolicy | None = None) -> CleanDocument:
    """Clean one document.

    Where a category is one of people's records, personal data in it is treated as the policy says; without one, e-mail addresses
    and phone numbers are masked.

    Source files only lose characters that no text may hold; everything else in them is kept as it stands.

    Raises:
        ExtractionError: nothing is left after cleaning.
    """
    spec = category_spec(raw.category)
    code = spec.chunking is Chunking.CODE
    text = clean_code(raw.text) if code else clean_markdown(raw.text)
    title = " ".join(clean_characters(raw.title).split())
    metadata = dict(raw.metadata)
    if spec.mask_personal_data:
        treat = mask_personal_data if privacy is None else privacy.apply
        text, title = treat(text), treat(title)
        metadata = {key: _treat(value, treat) for key, value in metadata.items()}
    if not text.strip():
        raise ExtractionError(
            f"{raw.link}: of {len(raw.text):,} characters nothing is left after cleaning (page furniture, "
            "blank space or invalid characters only). If the page needs JavaScript, collect it with `render: true`."
        )
    return CleanDocument(
        id=raw.id,
        category=raw.category,
        title=title,
        text=text,
        link=raw.link,
        platform=raw.platform,
        author=raw.author,
        author_id=raw.author_id,
        language=raw.language,
        published_at=raw.published_at,
        metadata=metadata,
        source_hash=source_hash(raw.content_hash, privacy),
    )


def _treat(value: MetadataValue, treat: Callable[[str], str]) -> MetadataValue:
    if isinstance(value, tuple):
        return tuple(map(treat, value))
    return treat(value) if isinstance(value, str) else value


def source_hash(content_hash: str, privacy: PrivacyPolicy | None = None) -> str:
    """Return what a clean document's ``source_hash`` must be for a raw document of this content hash."""
    policy = "" if privacy is None else f"{privacy.version}:"
    return text_hash(f"{CLEANING_VERSION}:{policy}{content_hash}")


# --- characters --------------------------------------------------------------------------------------------------

_LINE_ENDS = re.compile("\r\n?|[\u2028\u2029\x85\x0b\x0c]")
_CODE_LINE_ENDS = re.compile("\r\n?")
# Controls but tab and line feed, lone surrogates, non-characters, the byte order mark.
_INVALID = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\ufeff]")
# Invisible in prose: soft hyphen, zero-width space, word joiners, marks and overrides of direction.
_INVISIBLE = re.compile("[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f]")
_JOINERS = re.compile("[\u200c\u200d]+")
# Mathematical letters and digits, which posts use as bold or italic type. To a tokenizer and to a search for words they
# are other letters, or none at all; each has exactly one plain character.
_STYLED = re.compile("[\U0001d400-\U0001d7ff]")


def clean_characters(text: str) -> str:
    """Return prose without characters that no reader sees, styled letters made plain, composed to NFC, with line feeds
    as line ends."""
    if text.isascii() and not _INVALID.search(text) and not _LINE_ENDS.search(text):
        return text
    text = _INVISIBLE.sub("", _valid(_LINE_ENDS.sub("\n", text)))
    text = _STYLED.sub(lambda letter: unicodedata.normalize("NFKC", letter.group()), text)
    text = unicodedata.normalize("NFC", text)
    joined = _JOINERS.sub(_keep_needed_joiner, text)
    return joined if joined == text else unicodedata.normalize("NFC", joined)


def clean_code(text: str) -> str:
    """Return source code without characters that no text may hold. Form feeds and invisible characters are the
    author's."""
    return _valid(_CODE_LINE_ENDS.sub("\n", text))


def _valid(text: str) -> str:
    if not _INVALID.search(text):
        return text
    # Two surrogates that belong together are one character; what stays alone stands for nothing.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    return _INVALID.sub("", text)


def _keep_needed_joiner(match: re.Match[str]) -> str:
    """Joiners shape emoji and words of some scripts; beside ASCII or blank space they are litter."""
    text, start, end = match.string, match.start(), match.end()
    needed = start > 0 and end < len(text) and all(_takes_joiner(text[i]) for i in (start - 1, end))
    return match.group() if needed else ""


def _takes_joiner(character: str) -> bool:
    return character > "\x7f" and not character.isspace()


# --- lines -------------------------------------------------------------------------------------------------------

_INNER_SPACE = re.compile(r"[^\S\n]+")


def clean_markdown(text: str) -> str:
    """Return Markdown without boilerplate and repeated blank space; code blocks are kept as they stand."""
    blocks = [block for block in without_furniture(list(_blocks(clean_characters(text)))) if block.lines]
    lines: list[str] = []
    for i, block in enumerate(blocks):
        if block.kind == "blank":
            # Blank lines inside indented code are the code's own.
            inside = (
                0 < i < len(blocks) - 1
                and is_indented(blocks[i - 1].lines[-1])
                and is_indented(blocks[i + 1].lines[0])
            )
            lines += [""] * len(block.lines) if inside else [""]
        else:
            lines += (
                block.lines if block.kind == "code" else [_part(_fold_space(line)) for line in block.lines]
            )
    return _strip_blank_lines(lines)


def _blocks(text: str) -> Iterator[Block]:
    """Paragraphs, fenced blocks (to their closing fence, or to the end) and runs of blank lines, in order."""
    lines: list[str] = []
    kind: Literal["text", "code", "blank"] = "blank"
    fence = ""
    for line in text.split("\n"):
        if fence:
            lines.append(line)
            if closes_fence(line, fence):
                yield Block(lines, "code")
                lines, fence, kind = [], "", "blank"
            continue
        opening = match_fence(line)
        now: Literal["text", "code", "blank"] = "code" if opening else "text" if line.strip() else "blank"
        if lines and (now != kind or opening):
            yield Block(lines, kind)
            lines = []
        lines.append(line)
        kind, fence = now, opening
    if lines:
        yield Block(lines, kind)


def _fold_space(line: str) -> str:
    """One space between words; indentation, indented code and lines with code spans stay."""
    if is_indented(line) or "`" in line:
        return line
    line = line.rstrip()
    if "  " not in line and "\t" not in line and line.isascii():
        return line
    body = line.lstrip()
    return line[: len(line) - len(body)] + _INNER_SPACE.sub(" ", body)


_GLUED = re.compile(
    r"(?<=[\w)\]”’…][.!?…:])(?=[A-ZÀ-ÖØ-Þ“][a-zß-öø-ÿ]*[ ,’])"
    r"|(?<=[a-zß-öø-ÿ]{3})(?=(?:The|This|These|To|We|Why|How|What|When|You|If|It|For|And|But|So|Let|Here|As|By|Our)[ ’])"
)
"""Where a paragraph or a heading meets the next one without a space."""
_FEWEST_GLUED = 3
"""Such places in a line that make them a fault of whoever took the text off its page, and no name such as "Node.Js"."""
_GLUED_LINE = 200
"""Characters of a line that may be several paragraphs."""


def _part(line: str) -> str:
    """The line, or its paragraphs where they were glued together, as a page's text is without its tags."""
    if len(line) < _GLUED_LINE or "`" in line or len(_GLUED.findall(line)) < _FEWEST_GLUED:
        return line
    return "\n\n".join(part.strip() for part in _GLUED.split(line))


def _strip_blank_lines(lines: list[str]) -> str:
    first, last = 0, len(lines)
    while first < last and not lines[first].strip():
        first += 1
    while last > first and not lines[last - 1].strip():
        last -= 1
    return "\n".join(lines[first:last])
