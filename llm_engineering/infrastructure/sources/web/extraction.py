"""A page's HTML to a title, text and metadata; or the reason why it is no article."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_engineering.domain.errors import ExtractionError
from llm_engineering.infrastructure.sources.web.blocks import Blocks
from llm_engineering.infrastructure.sources.web.charset import decode
from llm_engineering.infrastructure.sources.web.page_metadata import PageMetadata, read_metadata

if TYPE_CHECKING:
    from lxml.html import HtmlElement

SHORT_CHARACTERS = 1_500
"""Below this, a title such as "Page not found" is believed: an article about error pages is longer."""
FORM_CHARACTERS = 500
"""A page with a password field and less text than this is a log-in page."""
PREVIEW_CHARACTERS = 2_000
"""A page that declares itself not free and has less text than this shows a preview only."""

_NOT_FOUND = re.compile(
    r"(?i)\b(404|410)\b|\b(page|article|post|story|content) (was |is |could )?(not|no longer) (be )?(found|available|exist)"
    r"|(^|[|:–-]\s*)not found\b|\bpage (does not|doesn['’]t) exist|\bseite (wurde )?nicht gefunden"
    r"|\bpage (non trouvée|introuvable)|\bpágina no encontrada|\bpagina non trovata|^\W*oops\b|^\W*error\W*$"
)
_WALL_WORDS = r"\b(sign|log) ?in to (continue|read|view|see)\b|\bverify (that )?you are( a)? human\b|\bare you a (human|robot)\b"
_WALL = re.compile(f"(?i){_WALL_WORDS}")
_WALL_TITLE = re.compile(
    rf"(?i){_WALL_WORDS}|^\W*(sign|log)[ -]?in\b|^\W*anmelden\b|\baccess denied\b|^forbidden\b"
    r"|\battention required\b"
)
_SCRIPTED = re.compile(
    r"(?i)\b(enable|requires?|activate) javascript\b|\bjust a moment\b|\bchecking your browser\b"
)
_FURNITURE = re.compile(
    r"(?i)(^|[\s_-])(subscription-widget\S*|subscribe-(widget|prompt)\S*|button-wrapper|post-ufi\S*|speechify-ignore"
    r"|share-(buttons?|bar|links)|cookie-(banner|consent|notice)\S*|newsletter-(form|signup)\S*|headerlink|hash-link)(\s|$)"
)
# Characters, written or numbered, that HTML's parser takes and XML's writer, on which the extractor builds, refuses.
_NO_XML = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]"
    r"|(?i:&#(?:0*(?:[0-8]|1[124-9]|2\d|3[01]|6553[45])|x0*(?:[0-8bcef]|1[0-9a-f]|fff[ef]))(?![0-9a-f]);?)"
)
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_FURNITURE_IDS = frozenset(
    # Medium's class names are scrambled; these attributes name the parts of a story's head.
    {"storyReadTime", "storyPublishDate", "authorName", "authorPhoto", "headerClapButton", "footerClapButton"}
    | {"headerSocialShareButton", "headerBookmarkButton", "audioPlayButton", "audioPlayTooltip"}
)


MAX_ELEMENTS = 200_000
"""Of a page; the longest books on one page have fewer."""


class NoTextError(ExtractionError):
    """The page came, but holds too little text; scripts may yet fill it."""


@dataclass(frozen=True)
class Page:
    text: str
    """Markdown."""
    metadata: PageMetadata


def load_libraries() -> None:
    """Import what extraction needs, which takes most of a second."""
    import lxml.html
    import trafilatura

    assert lxml.html
    assert trafilatura


def extract_fetched(content: bytes, content_type: str, url: str, min_characters: int) -> Page:
    """Decode a page and extract it, see :func:`extract_page`; finding out a character set can take its time."""
    return extract_page(decode(content, content_type)[0], url, min_characters=min_characters)


def extract_page(html: str, url: str, *, min_characters: int) -> Page:
    """Return text and metadata of a page fetched from ``url``.

    Raises:
        NoTextError: there is less text than ``min_characters``.
        ExtractionError: the page is binary, says that there is no such page, or wants a log-in or payment.
    """
    if _is_binary(html):
        raise ExtractionError("it is a binary file, not a page")
    root = _parse(html)
    if root is None:
        raise NoTextError("it is empty")
    count = sum(1 for _ in root.iter())
    if count > MAX_ELEMENTS:
        raise ExtractionError(f"it has {count:,} elements; at most {MAX_ELEMENTS:,} are read")
    metadata = read_metadata(root, url)
    asks_password = any((one.get("type") or "").lower() == "password" for one in root.iter("input"))
    headings = [" ".join(one.text_content().split()) for one in root.iter("h1")]
    text = _main_text(root)
    _refuse_excuses(metadata, headings, text, asks_password=asks_password)
    if len(text) < min_characters:
        said = " ".join(root.text_content().split())
        scripted = (
            " and asks for JavaScript" if _SCRIPTED.search(said) or _SCRIPTED.search(metadata.title) else ""
        )
        raise NoTextError(
            f"it holds {len(text)} characters of text{scripted}; expected at least {min_characters}"
        )
    return Page(text, metadata)


def _is_binary(html: str) -> bool:
    sample = html[:20_000]
    odd = sum(
        1
        for character in sample
        if character == "\ufffd" or (character < " " and character not in "\t\n\r\f")
    )
    return "\0" in sample or odd > len(sample) / 10


def _parse(html: str) -> "HtmlElement | None":
    from lxml import etree
    from lxml.html import HTMLParser, document_fromstring

    if not html.strip():
        return None
    try:
        # As bytes of a known set: lxml refuses a str that declares another one.
        content = _NO_XML.sub("", html).encode("utf-8", "replace")
        return document_fromstring(content, parser=HTMLParser(encoding="utf-8"))
    except etree.ParserError:  # nothing but comments or blanks
        return None


def _main_text(root: "HtmlElement") -> str:
    import trafilatura

    _drop_furniture(root)
    blocks = Blocks()
    blocks.take_out(root)
    best = ""
    for recall in (False, True):
        text = (
            trafilatura.extract(
                root,
                output_format="markdown",
                include_formatting=True,
                include_tables=True,
                include_comments=False,
                include_images=False,
                include_links=False,
                deduplicate=False,
                with_metadata=False,
                favor_recall=recall,
            )
            or ""
        )
        if not best or blocks.count_kept(text) > blocks.count_kept(best):
            best = text
        if blocks.count_kept(best) == len(blocks) and best:
            break  # the wider search is for pages whose code or tables were left behind
    return _tidy(blocks.put_back(_unescape(best)))


def _drop_furniture(root: "HtmlElement") -> None:
    """Take out what is not the author's writing and would be taken for it, or would hide what is."""
    for element in list(root.iter()):
        if not isinstance(element.tag, str) or element.getparent() is None:
            continue
        named = _FURNITURE.search(element.get("class") or "") or element.get("data-testid") in _FURNITURE_IDS
        # Figures without words, left in, make the extractor's time grow with the square of their number.
        wordless = element.tag == "figure" and not element.text_content().strip()
        if named or wordless or element.tag == "button" or _is_bare_link(element):
            element.drop_tree()
        elif element.tag in ("figure", "figcaption"):
            # The extractor leaves out figures whole; a caption is text, and some blogs set their code in figures.
            for one in (element, element.getparent()):
                if "caption" in (one.get("class") or ""):
                    del one.attrib["class"]
            element.tag = "div" if element.tag == "figure" else "p"


def _is_bare_link(element: "HtmlElement") -> bool:
    """A permalink beside a heading, or a link around a picture: a share of links makes a passage look like a menu."""
    if element.tag != "a":
        return False
    text = element.text_content().strip()
    return not text or (
        element.getparent().tag in _HEADINGS and text in ("#", "¶", "§", "🔗", "Link", "Permalink")
    )


def _unescape(text: str) -> str:
    r"""Markdown escapes of characters that mean nothing by themselves: ``snake\_case`` would be searched in vain."""
    parts = re.split(r"(`[^`\n]*`)", text)  # in code, a backslash is one
    parts[::2] = [re.sub(r"\\([\[\]_()!.~])", r"\1", part) for part in parts[::2]]
    return "".join(parts)


def _tidy(text: str) -> str:
    """Blank lines around fences and headings, never two in a row; code is not touched."""
    lines: list[str] = []
    fence = ""
    for line in text.split("\n"):
        opening = re.match(r"`{3,}", line)
        if fence:
            lines.append(line)
            fence = "" if line.rstrip() == fence else fence
            continue
        line = line.rstrip()
        if opening:
            fence = opening.group()
        starts = opening or re.match(r"#{1,6} ", line)
        if (starts and lines and lines[-1]) or (not line and lines and not lines[-1]):
            if not line:
                continue
            lines.append("")
        lines.append(line)
    return "\n".join(lines).strip()


def _refuse_excuses(metadata: PageMetadata, headings: list[str], text: str, *, asks_password: bool) -> None:
    """Raise ExtractionError for a page that was sent with status 200 and is no article all the same."""
    if len(text) < SHORT_CHARACTERS:
        names = [metadata.title, *headings[:1]]
        excuse = next((name for name in names if _NOT_FOUND.search(name)), "")
        if excuse:
            raise ExtractionError(f"it says that there is no such page ('{excuse[:80]}')")
        wall = next((name for name in names if _WALL_TITLE.search(name)), "")
        if not wall and _WALL.search(text[:300]):
            wall = text[:300]
        # Many sites carry a log-in form beside their articles, so a form alone proves little.
        if wall or (asks_password and len(text) < FORM_CHARACTERS):
            raise ExtractionError(
                f"it asks for a log-in or for proof of being human ('{(wall or metadata.title)[:80]}')"
            )
    if metadata.paywalled and len(text) < PREVIEW_CHARACTERS:
        raise ExtractionError(f"it must be paid for: only a preview of {len(text)} characters is shown")
