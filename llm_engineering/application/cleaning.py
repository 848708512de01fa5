"""Cleaning: text without invalid characters, page furniture and repeated blank space. Never case, never code.

Every rule looks at one character, one line or one paragraph, and every regular expression is bounded or anchored, so
the time is linear in the length of the text. Cleaning twice gives what cleaning once gives.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm_engineering.domain.categories import Chunking, category_spec
from llm_engineering.domain.documents import CleanDocument, RawDocument, Scalar, text_hash
from llm_engineering.domain.errors import ExtractionError

CLEANING_VERSION = "1"
"""Part of ``source_hash``: raise it with every change of the rules, and every document is cleaned again."""

PROSE_LANGUAGES = frozenset({"markdown", "md", "restructuredtext", "rst", "text", "txt"})
"""Languages of repository files that are written for people and are chunked like articles."""


def clean(raw: RawDocument) -> CleanDocument:
    """Clean one document.

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
        text, title = mask_personal_data(text), mask_personal_data(title)
        metadata = {key: _masked(value) for key, value in metadata.items()}
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
        source_hash=source_hash(raw.content_hash),
    )


def source_hash(content_hash: str) -> str:
    """What a clean document's ``source_hash`` must be for a raw document of this content hash."""
    return text_hash(f"{CLEANING_VERSION}:{content_hash}")


# --- characters --------------------------------------------------------------------------------------------------

_LINE_ENDS = re.compile("\r\n?|[\u2028\u2029\x85\x0b\x0c]")
_CODE_LINE_ENDS = re.compile("\r\n?")
# Controls but tab and line feed, lone surrogates, non-characters, the byte order mark.
_INVALID = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\ufeff]")
# Invisible in prose: soft hyphen, zero-width space, word joiners, marks and overrides of direction.
_INVISIBLE = re.compile("[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f]")
_JOINERS = re.compile("[\u200c\u200d]+")


def clean_characters(text: str) -> str:
    """Prose without characters that no reader sees, composed to NFC, with line feeds as line ends."""
    if text.isascii() and not _INVALID.search(text) and not _LINE_ENDS.search(text):
        return text
    text = _INVISIBLE.sub("", _valid(_LINE_ENDS.sub("\n", text)))
    text = unicodedata.normalize("NFC", text)
    joined = _JOINERS.sub(_keep_needed_joiner, text)
    return joined if joined == text else unicodedata.normalize("NFC", joined)


def clean_code(text: str) -> str:
    """Source code without characters that no text may hold. Form feeds and invisible characters are the author's."""
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

_FENCE = re.compile(r" {0,3}(?:>[ ]?)*(?:[-*+] )?[ ]*(`{3,}|~{3,})")
_INNER_SPACE = re.compile(r"[^\S\n]+")


@dataclass(slots=True)
class _Block:
    """Lines that belong together: a paragraph, or a code block with all that is in it."""

    lines: list[str]
    kind: Literal["text", "code", "blank"]


def clean_markdown(text: str) -> str:
    """Markdown without page furniture and repeated blank space; code blocks are kept as they stand."""
    blocks = [block for block in _without_furniture(list(_blocks(clean_characters(text)))) if block.lines]
    lines: list[str] = []
    for i, block in enumerate(blocks):
        if block.kind == "blank":
            # Blank lines inside indented code are the code's own.
            inside = (
                0 < i < len(blocks) - 1
                and _indented(blocks[i - 1].lines[-1])
                and _indented(blocks[i + 1].lines[0])
            )
            lines += [""] * len(block.lines) if inside else [""]
        else:
            lines += block.lines if block.kind == "code" else [_fold_space(line) for line in block.lines]
    return _strip_blank_lines(lines)


def _blocks(text: str) -> Iterator[_Block]:
    """Paragraphs, fenced blocks (to their closing fence, or to the end) and runs of blank lines, in order."""
    lines: list[str] = []
    kind: Literal["text", "code", "blank"] = "blank"
    fence = ""
    for line in text.split("\n"):
        if fence:
            lines.append(line)
            if closes_fence(line, fence):
                yield _Block(lines, "code")
                lines, fence, kind = [], "", "blank"
            continue
        opening = opened_fence(line)
        now: Literal["text", "code", "blank"] = "code" if opening else "text" if line.strip() else "blank"
        if lines and (now != kind or opening):
            yield _Block(lines, kind)
            lines = []
        lines.append(line)
        kind, fence = now, opening
    if lines:
        yield _Block(lines, kind)


def opened_fence(line: str) -> str:
    """The fence (at least three backticks or tildes) that this line of Markdown opens, or an empty string."""
    if "```" not in line and "~~~" not in line:
        return ""
    match = _FENCE.match(line)
    if match is None or (match[1][0] == "`" and "`" in line[match.end() :]):
        return ""
    return match[1]


def closes_fence(line: str, fence: str) -> bool:
    """Whether this line closes a block that ``fence`` opened: the same marks, at least as many, and nothing else."""
    bare = line.strip().lstrip("> ")
    return len(bare) >= len(fence) and bare.strip(fence[0]) == ""


def _indented(line: str) -> bool:
    return line.startswith(("    ", "\t"))


def _fold_space(line: str) -> str:
    """One space between words; indentation, indented code and lines with code spans stay."""
    if _indented(line) or "`" in line:
        return line
    line = line.rstrip()
    if "  " not in line and "\t" not in line and line.isascii():
        return line
    body = line.lstrip()
    return line[: len(line) - len(body)] + _INNER_SPACE.sub(" ", body)


def _strip_blank_lines(lines: list[str]) -> str:
    first, last = 0, len(lines)
    while first < last and not lines[first].strip():
        first += 1
    while last > first and not lines[last - 1].strip():
        last -= 1
    return "\n".join(lines[first:last])


# --- page furniture ----------------------------------------------------------------------------------------------

_LONGEST_FURNITURE = 160
_MARKS = re.compile(r"^(?:[-*+•>]|\d{1,2}[.)])\s+")
_MARK_STARTS = frozenset("-*+•>0123456789")
_LINK = re.compile(r"!?\[([^\[\]]{0,120})\]\([^()\s]{0,300}\)")
_EMPTY_LINK = re.compile(r"\[\s{0,9}\]\([^()\s]{0,300}\)")
_SEPARATORS = re.compile(r"\s*[∙·•|]\s*")
_COPYRIGHT = re.compile(r"(?:copyright )?(?:©|\(c\)) ?(?:copyright )?\d{4}\b.{0,80}")
_HOST = re.compile(r"(?:[a-z0-9-]{1,40}\.){1,4}[a-z]{2,12}")


def _phrases(listing: str) -> frozenset[str]:
    return frozenset(" ".join(phrase.split()) for phrase in listing.replace("\n", "|").split("|")) - {""}


# Whole paragraphs that are never content, wherever they stand. Compared without case, marks and links.
_FURNITURE = _phrases(
    """
    share this post|share this article|share this story|share this page|share on facebook|share on twitter
    share on x|share on linkedin|share via email|tweet this|copy link|link copied|copied to clipboard
    subscribe now|subscribe to our newsletter|subscribe to the newsletter|subscribe sign in|subscribesign in
    subscribe to continue reading|get the app|start writing|start writingget the app|start writing get the app
    open in app|sign up|sign in|log in|sign up sign in|sign upsign in|log in sign up|sign up for free
    create account|already have an account? sign in|already a subscriber? sign in|discussion about this post
    ready for more?|thanks for reading! subscribe for free to receive new posts|type your email…
    type your email...|leave a comment|write a comment|add a comment|load more comments|view all comments
    accept all cookies|accept cookies|reject all cookies|accept all|manage cookies|cookie settings
    cookie preferences|cookie policy|we use cookies|this website uses cookies|we value your privacy
    privacy policy|terms of service|terms of use|all rights reserved|all rights reserved.|skip to content
    skip to main content|skip to navigation|back to top|toggle navigation|toggle menu|main menu
    substack is the home for great culture|© substack|top latest discussions
    this site requires javascript to run correctly. please turn on javascript or unblock scripts
    please enable javascript to continue|you need to enable javascript to run this app.
    """
)

# The few that are also set as headings; "Sign in" as a heading is a chapter of a manual.
_FURNITURE_HEADINGS = frozenset({"discussion about this post", "ready for more?", "share this post"})

# Words that are furniture only beside furniture: alone they may be content.
_COMPANIONS = _phrases(
    """
    share|facebook|twitter|x|linkedin|reddit|whatsapp|pinterest|email|e-mail|note|notes|other|more|print
    subscribe|follow|following|like|likes|comment|comments|restack|restacks|top|latest|discussions|no posts
    menu|search|home|about|archive|help|status|careers|press|blog|privacy|terms|listen|save|next|previous
    share this
    """
)

# Parts of a footer line, which has at least two.
_FOOTER = _phrases(
    """
    privacy|privacy policy|terms|terms of service|terms of use|collection notice|cookies|cookie policy|legal
    imprint|contact|contact us|help|status|about|about us|careers|press|blog|sitemap|accessibility|advertise
    subscribe|sign in|log in|sign up|home|rss|twitter|facebook|linkedin|github|newsletter|archive
    """
)


def _without_furniture(blocks: list[_Block]) -> list[_Block]:
    """Drop paragraphs of furniture, and the companions that stand beside them up to the next content.

    A paragraph is judged by itself, and companions only follow from dropped neighbours, so a second pass finds nothing.
    """
    paragraphs = [block for block in blocks if block.kind != "blank"]
    dropped = [_is_furniture(block) for block in paragraphs]
    if not any(dropped):
        return blocks
    repeated = _repeated_headings(paragraphs)
    companions = [id(block) in repeated or _is_companion(block) for block in paragraphs]
    for i in range(1, len(paragraphs)):
        dropped[i] = dropped[i] or (companions[i] and dropped[i - 1])
    for i in range(len(paragraphs) - 2, -1, -1):
        dropped[i] = dropped[i] or (companions[i] and dropped[i + 1])
    gone = {id(block) for block, drop in zip(paragraphs, dropped, strict=True) if drop}
    return _joined_blanks([block for block in blocks if id(block) not in gone])


def _joined_blanks(blocks: list[_Block]) -> list[_Block]:
    kept: list[_Block] = []
    for block in blocks:
        if not (block.kind == "blank" and kept and kept[-1].kind == "blank"):
            kept.append(block)
    return kept


def _is_furniture(block: _Block) -> bool:
    if block.kind != "text" or len(block.lines) > 12 or len(block.lines[0]) > _LONGEST_FURNITURE:
        return False
    if block.lines[0].startswith("#"):
        return len(block.lines) == 1 and _bare(block.lines[0]) in _FURNITURE_HEADINGS
    if any(_indented(line) or len(line) > _LONGEST_FURNITURE for line in block.lines):
        return False
    if len(block.lines) > 1 and _bare(" ".join(block.lines[:4])) in _FURNITURE:
        return len(block.lines) <= 4
    return all(_is_furniture_line(line) for line in block.lines)


def _is_furniture_line(line: str) -> bool:
    stripped = line.strip()
    if "](" in stripped:
        without_marks = _MARKS.sub("", stripped)
        if _EMPTY_LINK.search(without_marks) and not _EMPTY_LINK.sub("", without_marks).strip():
            return True
    bare = _bare(stripped)
    if bare in _FURNITURE or _COPYRIGHT.fullmatch(bare):
        return True
    parts = _SEPARATORS.split(bare)
    return len(parts) > 1 and all(part in _FOOTER for part in parts)


def _is_companion(block: _Block) -> bool:
    if block.kind != "text" or len(block.lines) > 12:
        return False
    return all(
        len(line) <= 60 and not _indented(line) and _is_companion_line(_bare(line)) for line in block.lines
    )


def _repeated_headings(paragraphs: list[_Block]) -> set[int]:
    """Identities of headings that say again what another one says: a share box repeats the page's title.

    The one of the highest rank (of those, the first) is the real one.
    """
    by_text: dict[str, list[_Block]] = {}
    for block in paragraphs:
        if heading := _heading(block):
            by_text.setdefault(heading, []).append(block)
    repeated: set[int] = set()
    for same in by_text.values():
        real = min(same, key=_heading_level)
        repeated |= {id(block) for block in same if block is not real}
    return repeated


def _is_companion_line(bare: str) -> bool:
    return bare in _COMPANIONS or (bare.isdecimal() and len(bare) <= 6) or _HOST.fullmatch(bare) is not None


def _heading(block: _Block) -> str:
    line = block.lines[0]
    if block.kind != "text" or not line.startswith("#") or len(block.lines) > 1 or len(line) > 300:
        return ""
    return line.lstrip("#").strip().casefold()


def _heading_level(block: _Block) -> int:
    line = block.lines[0]
    return len(line) - len(line.lstrip("#"))


def _bare(line: str) -> str:
    """A short line without list marks, emphasis, link targets and case."""
    if len(line) > 2 * _LONGEST_FURNITURE:
        return line
    bare = line.strip()
    if bare[:1] in _MARK_STARTS:
        bare = _MARKS.sub("", bare)
    if "](" in bare:
        bare = _LINK.sub(r"\1", bare)
    return " ".join(bare.strip("*_# ").casefold().split())


# --- personal data -----------------------------------------------------------------------------------------------

# Anchored at the start of a run and bounded, so that a long run without an @ is looked at once.
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_PHONE = re.compile(r"(?<![\w@/.:,\]-])(?:\+|\()?\d[\d ().\-/\u00a0]{5,22}\d(?![\w@])")
_DATE = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4}")
_ADDRESS = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")


def mask_personal_data(text: str) -> str:
    """Replace e-mail addresses by ``[e-mail]`` and phone numbers by ``[phone]``.

    A phone number is one with a country code, an area code in parentheses or a leading zero, or three or more groups of
    digits; dates, IP addresses and plain numbers such as an order's stay.
    """
    if "@" in text:
        text = _EMAIL.sub("[e-mail]", text)
    return _PHONE.sub(_mask_phone, text)


def _mask_phone(match: re.Match[str]) -> str:
    found = match.group()
    digits = sum(character.isdecimal() for character in found)
    groups = re.findall(r"\d+", found)
    if not 7 <= digits <= 15 or _DATE.search(found) or _ADDRESS.fullmatch(found):
        return found
    international = found[0] == "+" or found.startswith("00")
    national = found[0] in "(0" and digits >= 9
    grouped = len(groups) >= 3 and digits >= 9 and all(2 <= len(group) <= 5 for group in groups[1:])
    return "[phone]" if international or national or grouped else found


def _masked(value: Scalar) -> Scalar:
    return mask_personal_data(value) if isinstance(value, str) else value
