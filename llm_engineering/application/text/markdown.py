"""The structure of a text by positions: blocks under headings, definitions of source code, list items, sentences."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto

_FENCE = re.compile(r" {0,3}(?:>[ ]?)*(?:[-*+] )?[ ]*(`{3,}|~{3,})")


def match_fence(line: str) -> str:
    """Return the fence (at least three backticks or tildes) that this line of Markdown opens, or an empty string."""
    if "```" not in line and "~~~" not in line:
        return ""
    match = _FENCE.match(line)
    if match is None or (match[1][0] == "`" and "`" in line[match.end() :]):
        return ""
    return match[1]


def closes_fence(line: str, fence: str) -> bool:
    """Return whether this line closes a block that ``fence`` opened: the same marks, at least as many, and nothing
    else."""
    bare = line.strip().lstrip("> ")
    return len(bare) >= len(fence) and bare.strip(fence[0]) == ""


class Kind(Enum):
    HEADING = auto()
    TEXT = auto()
    CODE = auto()
    TABLE = auto()


@dataclass(slots=True)
class Block:
    """Lines ``[start, end)`` of a text that belong together, under the headings ``path`` (outermost first)."""

    start: int
    end: int
    kind: Kind
    path: tuple[str, ...] = ()


_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
_SETEXT = re.compile(r" {0,3}(?:={2,}|-{3,})[ \t]*")
_TABLE_RULE = re.compile(r"[ \t]{0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-*:?[ \t]*)+")
_LIST_ITEM = re.compile(r"^[ \t]{0,12}(?:[-*+•]|\d{1,3}[.)])[ \t]", re.MULTILINE)
_LONGEST_HEADING = 300


def markdown_blocks(text: str) -> list[Block]:
    """Return headings (ATX and setext), fenced code, tables and paragraphs, in order; all but blank lines is in a
    block."""
    return list(_Markdown(text).blocks())


class _Markdown:
    def __init__(self, text: str) -> None:
        self._text = text
        self._levels: list[tuple[int, str]] = []
        self._path: tuple[str, ...] = ()

    def blocks(self) -> Iterator[Block]:
        fence, fence_start = "", 0
        first, last, lines = -1, 0, 0  # the open paragraph
        position = 0
        for line in self._text.split("\n"):
            start, end = position, position + len(line)
            position = end + 1
            if fence:
                if closes_fence(line, fence):
                    yield Block(fence_start, end, Kind.CODE, self._path)
                    fence = ""
                continue
            stripped = line.strip()
            opening = match_fence(line)
            atx = _ATX.fullmatch(line) if stripped.startswith("#") and len(line) <= _LONGEST_HEADING else None
            if stripped and not opening and atx is None:
                if lines == 1 and stripped[0] in "=-" and self._underlines(first, last, line):
                    yield self._heading(first, end, 1 if stripped[0] == "=" else 2, self._text[first:last])
                    first, lines = -1, 0
                    continue
                first, last, lines = (start if first < 0 else first), end, lines + 1
                continue
            if first >= 0:
                yield self._paragraph(first, last)
                first, lines = -1, 0
            if opening:
                fence, fence_start = opening, start
            elif atx is not None:
                yield self._heading(start, end, len(atx[1]), atx[2] or "")
        if fence:
            yield Block(fence_start, len(self._text), Kind.CODE, self._path)
        elif first >= 0:
            yield self._paragraph(first, last)

    def _underlines(self, first: int, last: int, line: str) -> bool:
        above = self._text[first:last]
        plain = (
            len(above) <= _LONGEST_HEADING
            and above.lstrip()[0] not in "-*+>|="
            and not above.startswith("    ")
        )
        return plain and _SETEXT.fullmatch(line) is not None

    def _heading(self, start: int, end: int, level: int, title: str) -> Block:
        title = " ".join(title.strip().rstrip("#").split()).strip("*_ ")
        while self._levels and self._levels[-1][0] >= level:
            self._levels.pop()
        if title:
            self._levels.append((level, title))
        self._path = tuple(name for _, name in self._levels)
        return Block(start, end, Kind.HEADING, self._path)

    def _paragraph(self, start: int, end: int) -> Block:
        text = self._text
        kind = Kind.TEXT
        if text.startswith(("    ", "\t"), start):
            kind = Kind.CODE
        elif (rule := text.find("\n", start, end)) >= 0 and text.find("|", start, end) >= 0:
            stop = text.find("\n", rule + 1, end)
            second = text[rule + 1 : stop if stop >= 0 else end]
            if len(second) <= 2_000 and _TABLE_RULE.fullmatch(second):
                kind = Kind.TABLE
        return Block(start, end, kind, self._path)


# --- source code -------------------------------------------------------------------------------------------------

_DEFINITION = re.compile(
    r"(?:export |default |pub(?:\([a-z]+\))? |public |private |protected |internal |static |abstract |final |async "
    r"|unsafe |sealed |data |inline |extern )*"
    r"(?:def|class|func|fn|function|struct|enum|interface|trait|impl|type|module|namespace|object|macro_rules!)\b"
)
_CONTINUES = re.compile(r"[)}\]{]|(?:else|elif|except|finally|catch|end|then|fi|done)\b")
_LEADS = ("@", "#", "//", "/*", "*", "--", "<!--", '"""')


def code_blocks(text: str) -> list[Block]:
    """Return top-level definitions with the comments and decorators above them, and what stands between them."""
    blocks: list[Block] = []
    position, previous = 0, ""
    first = last = -1
    for line in text.split("\n"):
        start, end = position, position + len(line)
        position = end + 1
        if line and not line.isspace():
            if first >= 0 and _begins_definition(line, previous):
                blocks.append(Block(first, last, Kind.CODE))
                first = -1
            first, last = (start if first < 0 else first), end
        previous = line
    if first >= 0:
        blocks.append(Block(first, last, Kind.CODE))
    return blocks


def _begins_definition(line: str, previous: str) -> bool:
    if line[0].isspace() or _CONTINUES.match(line):
        return False
    if not previous.strip():
        return True
    return _DEFINITION.match(line) is not None and not previous.startswith(_LEADS)


def find_signature(text: str, block: Block) -> str:
    """Return the line that names a definition, at most 80 characters, or an empty string."""
    for line in text[block.start : min(block.end, block.start + 2_000)].split("\n"):
        if line and not line.startswith(_LEADS):
            return line.strip().rstrip("{:").strip()[:80] if _DEFINITION.match(line) else ""
    return ""


_CODE_NAME = re.compile(r"\b(?:[A-Za-z]\w*_\w+|[a-z]+[A-Z]\w*|[A-Z][a-z0-9]+[A-Z]\w*|[A-Za-z_]\w*(?=\(\)))")


def find_code_names(text: str) -> frozenset[str]:
    """Return the words of a text that are written as names of code are: ``text_hash``, ``readRow``, ``RowReader``, ``run()``."""
    return frozenset(_CODE_NAME.findall(text))


def defines_any(code: str, names: Collection[str]) -> bool:
    """Return whether code defines one of these names: a function, a class, or a variable at the beginning of a line."""
    if not names:
        return False
    name = f"(?:{'|'.join(map(re.escape, sorted(names)))})"
    return (
        re.search(
            rf"^(?:[ \t]*{_DEFINITION.pattern}\s+{name}\b|{name}\s*(?::[^=\n]+)?=(?!=))", code, re.MULTILINE
        )
        is not None
    )


# --- places to cut -----------------------------------------------------------------------------------------------

_SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]*_]{0,3}\s+|[。！？｡]["”’』」）]{0,2}\s*""")
_ABBREVIATIONS = frozenset(
    """e.g|i.e|etc|vs|mr|mrs|ms|dr|prof|st|fig|figs|eq|no|nos|vol|al|cf|inc|ltd|co|corp|approx|ca|bzw|z.b|d.h|usw|sec
    |chap|ch|ed|eds|pp|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec""".replace("\n    ", "").split("|")
)


def sentence_starts(text: str, start: int, end: int) -> list[int]:
    """Return where sentences within ``[start, end)`` begin, but for the first."""
    found: list[int] = []
    for match in _SENTENCE_END.finditer(text, start, end):
        after = match.end()
        if after < end and not (
            text[match.start()] == "." and _is_abbreviation(text, start, match.start(), after)
        ):
            found.append(after)
    return found


def _is_abbreviation(text: str, start: int, dot: int, after: int) -> bool:
    if text[after].islower():
        return True
    before = text[max(start, dot - 12) : dot].split()
    if not before:
        return False
    word = before[-1].lstrip("(['\"“*_").lower()
    return word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha()) or ("." in word and len(word) <= 4)


def item_starts(text: str, start: int, end: int) -> list[int]:
    """Return where list items within ``[start, end)`` begin, but for one at the start."""
    return [match.start() for match in _LIST_ITEM.finditer(text, start, end) if match.start() > start]


def line_starts(text: str, start: int, end: int) -> list[int]:
    """Return where lines within ``[start, end)`` that are not blank begin, but for the first."""
    return [match.start() for match in _LINE.finditer(text, start, end) if match.start() > start]


def group_starts(text: str, start: int, end: int) -> list[int]:
    """Return where lines after a blank line within ``[start, end)`` begin."""
    return [match.end() for match in _BLANK_LINES.finditer(text, start, end) if match.end() < end]


_LINE = re.compile(r"^(?=[^\n]*\S)", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


_INLINE_CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
# Marks that embrace words; "2 * 3", "num_experts_per_tok" and "x > 3" hold none.
_EMPHASIS = re.compile(
    r"(?<![\w*])(\*{1,3})(?=[^\s*])(.+?)(?<=[^\s*])\1(?![\w*])|(?<!\w)(_{1,3})(?=[^\s_])(.+?)(?<=[^\s_])\3(?!\w)"
)
_LINE_MARK = re.compile(r"(?m)^\s*(?:#{1,6}\s+|>\s?|[-+*•]\s+|\d{1,3}[.)]\s+|\|\s*)+")


def strip_markdown(text: str) -> str:
    """Return the text without Markdown's marks, on one line. What only looks like a mark stays: "x > 3", "a_b_c"."""
    text = _LINE_MARK.sub("", text)
    plain, end = "", 0
    for code in _INLINE_CODE.finditer(text):  # code is kept as it is
        plain += _strip_emphasis(text[end : code.start()]) + code[2]
        end = code.end()
    return " ".join((plain + _strip_emphasis(text[end:])).split()).removesuffix(" |")


def _strip_emphasis(text: str) -> str:
    text = _LINK.sub(lambda link: link[1], text)
    return _EMPHASIS.sub(lambda mark: mark[2] or mark[4], text)


def shorten(text: str, most: int) -> str:
    """Return a text's first characters on one line, cut between words where there are any."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most].rsplit(' ', 1)[0]} …"


_IMAGE = re.compile(r"(?<!\w)!(?=\[)|!(?=\[[^\n]*\][(\[])")
"""The mark of an image; of what a word stands before, as of ``vec![0]``, only where it leads to an address."""
_OPEN_IMAGE = re.compile(r"!(?:(?<=\w!)\[[^\n]*)?$")
"""The end of a text, where an image may be under way."""


def show_images_as_links(text: str) -> str:
    """Return the text with links in place of images: who renders it then loads nothing from a place that a page has chosen,
    and tells nobody that, and what, was asked."""
    return _IMAGE.sub("", text)


class ImageFilter:
    """Shows images as links in a text that comes piece by piece."""

    def __init__(self) -> None:
        self._before = ""
        """The last character that was shown."""
        self._held = ""

    def feed(self, text: str) -> str:
        """Return what may be shown now; what may become an image is held back."""
        whole = self._before + self._held + text
        found = _OPEN_IMAGE.search(whole)
        end = found.start() if found else len(whole)
        shown, self._held = show_images_as_links(whole[:end])[len(self._before) :], whole[end:]
        self._before = (self._before + shown)[-1:]
        return shown

    def close(self) -> str:
        """Return what was held back to the end."""
        held, self._held = self._held, ""
        return show_images_as_links(self._before + held)[len(self._before) :]
