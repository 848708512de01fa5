"""HTML that is somebody's writing as a whole, to Markdown. Pages with menus around the writing go through the page extraction."""

from typing import TYPE_CHECKING

from llm_engineering.infrastructure.sources.files.writings import UnreadableError

if TYPE_CHECKING:
    from lxml.html import HtmlElement

MAX_CHARACTERS = 5_000_000
_NOT_TEXT = ("script", "style", "nav", "template", "noscript", "svg", "math", "form", "button")


def parse_html(html: str) -> "HtmlElement | None":
    """Return the root of a page or fragment; None where it is empty."""
    from lxml import etree
    from lxml.html import HTMLParser, document_fromstring

    try:
        return document_fromstring(html.encode("utf-8", "replace"), parser=HTMLParser(encoding="utf-8"))
    except etree.ParserError:
        return None


def to_markdown(html: "str | HtmlElement | None") -> str:
    """Return the text of a page, fragment or element as Markdown, without pictures and addresses.

    Raises:
        UnreadableError: it is longer than any chapter, or nested deeper than any person nests elements.
    """
    from lxml.html import tostring
    from markdownify import markdownify

    if isinstance(html, str) and len(html) > MAX_CHARACTERS:
        raise UnreadableError(f"Its page has {len(html):,} characters; at most {MAX_CHARACTERS:,} are read.")
    root = parse_html(html) if isinstance(html, str) else html
    if root is None:
        return ""
    body = root.find("body")
    element = root if body is None else body
    for one in list(element.iter(*_NOT_TEXT)):
        if one.getparent() is not None:
            one.drop_tree()
    try:
        text = markdownify(
            tostring(element, encoding="unicode", with_tail=False),
            heading_style="ATX",
            bullets="-",
            strip=["a", "img"],
            escape_asterisks=False,
            escape_underscores=False,
            escape_misc=False,
        )
    except RecursionError:
        raise UnreadableError("Its elements are nested too deep.") from None
    return str(text).strip()


def read_xml(content: bytes) -> "HtmlElement":
    """Parse XML from elsewhere: no entities, nothing fetched.

    Raises:
        lxml.etree.XMLSyntaxError: it is no XML.
    """
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    return etree.fromstring(content, parser=parser)
