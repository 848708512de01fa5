"""Page furniture: what a web page has around its text - share boxes, calls to sign up, cookie notes, footers."""

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(slots=True)
class Block:
    """Lines that belong together: a paragraph, or a code block with all that is in it."""

    lines: list[str]
    kind: Literal["text", "code", "blank"]


def is_indented(line: str) -> bool:
    """Return whether Markdown takes this line for code, or for part of a list item."""
    return line.startswith(("    ", "\t"))


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


def without_furniture(blocks: list[Block]) -> list[Block]:
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


def _joined_blanks(blocks: list[Block]) -> list[Block]:
    kept: list[Block] = []
    for block in blocks:
        if not (block.kind == "blank" and kept and kept[-1].kind == "blank"):
            kept.append(block)
    return kept


def _is_furniture(block: Block) -> bool:
    if block.kind != "text" or len(block.lines) > 12 or len(block.lines[0]) > _LONGEST_FURNITURE:
        return False
    if block.lines[0].startswith("#"):
        return len(block.lines) == 1 and _bare(block.lines[0]) in _FURNITURE_HEADINGS
    if any(is_indented(line) or len(line) > _LONGEST_FURNITURE for line in block.lines):
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


def _is_companion(block: Block) -> bool:
    if block.kind != "text" or len(block.lines) > 12:
        return False
    return all(
        len(line) <= 60 and not is_indented(line) and _is_companion_line(_bare(line)) for line in block.lines
    )


def _repeated_headings(paragraphs: list[Block]) -> set[int]:
    """Identities of headings that say again what another one says: a share box repeats the page's title.

    The one of the highest rank (of those, the first) is the real one.
    """
    by_text: dict[str, list[Block]] = {}
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


def _heading(block: Block) -> str:
    line = block.lines[0]
    if block.kind != "text" or not line.startswith("#") or len(block.lines) > 1 or len(line) > 300:
        return ""
    return line.lstrip("#").strip().casefold()


def _heading_level(block: Block) -> int:
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
