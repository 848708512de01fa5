"""Code blocks and tables, taken out of a page before the text is extracted and put back afterwards, to the letter.

The extractor is good at finding the text of a page, but it folds space: blank lines in code go, line breaks made with
``<br>`` go, code inside a list item runs into the sentence, and the language of a block is dropped. So every ``<pre>``
and every table of data is replaced by a paragraph that holds a mark, and the mark by Markdown once the text is there.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lxml.html import HtmlElement

_LANGUAGE = re.compile(
    r"(?:^|\s)(?:language-|lang-|highlight-source-|highlight-|brush:\s*|sourceCode\s+|hljs\s+)([\w+#.-]+)"
)
_NO_LANGUAGE = frozenset(
    {"", "text", "plaintext", "plain", "none", "nohighlight", "default", "notranslate", "code", "auto"}
)
_LINE_NUMBERS = re.compile(
    r"(^|[\s_-])(lineno|linenos|line-?numbers?(-rows)?|gutter|rouge-gutter|copy|clipboard)", re.I
)
_BREAKING = frozenset({"div", "p", "li", "tr", "code", "ol", "ul", "table"})
_FIND_MARK = re.compile(r"TWINBLOCK(\d{4,})MARK(?:\s+TWINFILL)*")
_MAX_FILL = 50
_EMPTY_ITEM = re.compile(r"[ \t]*(>|[-*+]|\d+\.)?[ \t]*")


class Blocks:
    """Blocks that were taken out of one page, in Markdown, by number."""

    def __init__(self) -> None:
        self._markdown: list[str] = []

    def __len__(self) -> int:
        return len(self._markdown)

    def take_out(self, root: "HtmlElement") -> None:
        """Replace every code block and every table of data below ``root`` by a marked paragraph."""
        # Code first, since a table may only lay out the lines of a code block.
        for element in _code_elements(root):
            code = code_text(element)
            if code.strip():
                self._replace(element, fence_code(code, code_language(element)))
        for table in list(root.iter("table")):
            markdown = table_markdown(table)
            if markdown and table.getparent() is not None:
                self._replace(table, markdown)

    def put_back(self, text: str) -> str:
        """Return the text with each mark replaced by its block, set apart by blank lines."""
        parts = _FIND_MARK.split(text)
        pieces = [parts[0]]
        for number, after in zip(parts[1::2], parts[2::2], strict=True):
            # A mark inside a list item or a quotation ends that line: code stands at the margin, exactly as written.
            before, _, line = pieces[-1].rpartition("\n")
            pieces[-1] = before if _EMPTY_ITEM.fullmatch(line) else pieces[-1]
            pieces += [self._markdown[int(number)], after]
        # Pieces of text and blocks alternate; only text may be trimmed.
        trimmed = (piece if index % 2 else piece.strip("\n").rstrip() for index, piece in enumerate(pieces))
        return "\n\n".join(piece for piece in trimmed if piece.strip()).strip("\n")

    def count_kept(self, text: str) -> int:
        """Return how many of the blocks have their mark in the text."""
        return len(set(_FIND_MARK.findall(text)))

    def _replace(self, element: "HtmlElement", markdown: str) -> None:
        from lxml.html import Element

        parent = element.getparent()
        if parent is None:
            return
        mark = Element("p")
        # The extractor weighs text by its length: without a filling, a post that is mostly code would seem empty.
        filling = " TWINFILL" * min(len(markdown) // 9, _MAX_FILL)
        mark.text = f"TWINBLOCK{len(self._markdown):04d}MARK{filling}"
        self._markdown.append(markdown)
        mark.tail = element.tail
        parent.replace(element, mark)


def _code_elements(root: "HtmlElement") -> list["HtmlElement"]:
    """Outermost elements that are one code block each: ``<pre>``, or the table that sets line numbers beside one."""
    found: list[HtmlElement] = []
    seen: set[HtmlElement] = set()
    for pre in root.iter("pre"):
        if any(ancestor in seen for ancestor in pre.iterancestors()):
            continue
        table = next(pre.iterancestors("table"), None)
        beside = [one for one in table.iter("pre") if not _is_line_numbers(one)] if table is not None else []
        element = table if table is not None and beside == [pre] and _has_gutter(table) else pre
        if element is pre and table is not None and _is_line_numbers(pre):
            continue
        seen.add(element)
        found.append(element)
    return found


def _has_gutter(table: "HtmlElement") -> bool:
    return any(_is_line_numbers(pre) for pre in table.iter("pre")) or any(
        _LINE_NUMBERS.search(cell.get("class") or "") for cell in table.iter("td")
    )


def _is_line_numbers(element: "HtmlElement") -> bool:
    """Whether an element holds nothing but counting numbers."""
    words = "".join(element.itertext()).split()
    if not words or not (words[0].isascii() and words[0].isdigit()):
        return False
    first = int(words[0][:9])
    return words == [str(number) for number in range(first, first + len(words))]


def code_text(element: "HtmlElement") -> str:
    """Return the characters of a code block as a browser would show them, without line numbers and copy buttons."""
    pieces: list[str] = []
    _collect(element, pieces, outermost=True)
    lines = "".join(pieces).replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " ").split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    return "\n".join(lines).rstrip()


def _collect(element: "HtmlElement", pieces: list[str], *, outermost: bool = False) -> None:
    tag = element.tag
    if not isinstance(tag, str):  # a comment
        return
    if tag == "br":
        pieces.append("\n")
        return
    classes = element.get("class") or ""
    skipped = tag in ("button", "script", "style") or (tag != "pre" and _LINE_NUMBERS.search(classes))
    if not outermost and (skipped or (tag in ("td", "pre") and _is_line_numbers(element))):
        return
    breaks = tag in _BREAKING
    if breaks and pieces and not pieces[-1].endswith("\n") and "".join(pieces[-3:]).strip():
        pieces.append("\n")  # a block starts on its own line
    pieces.append(element.text or "")
    for child in element:
        _collect(child, pieces)
        tail = child.tail or ""
        if (
            child.tag in ("div", "p", "li", "tr")
            and not tail.startswith("\n")
            and _open_line(pieces)
            and tail
        ):
            pieces.append("\n")
        pieces.append(tail)


def _open_line(pieces: list[str]) -> bool:
    text = next((piece for piece in reversed(pieces) if piece), "")
    return bool(text) and not text.endswith("\n")


def code_language(element: "HtmlElement") -> str:
    """Return what the classes or data attributes of a block, its ``<code>`` or a box around it say; empty where nothing
    does."""
    inside = [element, *element.iter("code"), *element.iter("pre")]
    around = [ancestor for _, ancestor in zip(range(3), element.iterancestors(), strict=False)]
    for one in (*inside, *around):
        for attribute in ("data-lang", "data-language"):
            named = (one.get(attribute) or "").strip().lower()
            if named and named not in _NO_LANGUAGE:
                return named
        found = _LANGUAGE.search(one.get("class") or "")
        if found and found.group(1).lower() not in _NO_LANGUAGE:
            return found.group(1).lower()
    return ""


def fence_code(code: str, language: str = "") -> str:
    """Return a fenced code block whose fence is longer than any run of backticks within."""
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def table_markdown(table: "HtmlElement") -> str:
    """Return a table of data as a Markdown table; empty for one that only lays out a page, or has a single column or
    row."""
    if any(True for _ in table.iterdescendants("table", "h1", "h2", "h3", "form", "article", "pre")):
        return ""
    rows = [_cells(row) for row in table.iter("tr")]
    rows = [row for row in rows if any(row)]
    width = max((len(row) for row in rows), default=0)
    if width < 2 or len(rows) < 2 or _FIND_MARK.search("".join(table.itertext())):
        return ""
    rows = [row + [""] * (width - len(row)) for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    caption = next((_inline(one) for one in table.iter("caption")), "")
    lines.insert(1, "|" + " --- |" * width)
    return "\n".join([caption, "", *lines] if caption else lines)


def _cells(row: "HtmlElement") -> list[str]:
    cells: list[str] = []
    for cell in row.iter("td", "th"):
        span = cell.get("colspan") or "1"
        cells.append(_inline(cell))
        # What spans columns is written once; the columns it covers stay empty, so the others keep their place.
        cells.extend([""] * (min(int(span), 50) - 1 if span.isascii() and span.isdigit() else 0))
    return cells


def _inline(element: "HtmlElement") -> str:
    """The text of a cell on one line, inline code in backticks."""
    pieces: list[str] = [element.text or ""]
    for child in element:
        if isinstance(child.tag, str) and child.tag not in ("script", "style"):
            text = _inline(child)
            quoted = child.tag == "code" and text and "`" not in text
            space = " " if child.tag in ("br", "p", "li", "div") else ""
            pieces.append(f"`{text}`" if quoted else f"{text}{space}")
        pieces.append(child.tail or "")
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join("".join(pieces).split()))
