"""Word documents and EPUB books: zip archives with XML inside."""

import re
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from posixpath import dirname, join, normpath
from urllib.parse import unquote

from llm_engineering.infrastructure.sources.files.markup import read_xml, to_markdown
from llm_engineering.infrastructure.sources.files.trees import ZipTree
from llm_engineering.infrastructure.sources.files.writings import Limits, UnreadableError, Writing
from llm_engineering.infrastructure.sources.web.charset import decode
from llm_engineering.infrastructure.sources.web.page_metadata import parse_date

_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"


def read_docx(content: bytes, limits: Limits) -> Iterator[Writing]:
    """Yield a Word document's text, with its headings, lists and tables.

    Raises:
        UnreadableError: it is no such document, or a zip bomb.
    """
    import mammoth

    archive = ZipTree(BytesIO(content), "", limits)
    if archive.find("word/document.xml") is None:
        raise UnreadableError("It is no Word document (.docx): it holds no word/document.xml.")
    size = archive.count_bytes(lambda name: name.endswith((".xml", ".rels")))
    if size > limits.document_bytes:
        raise UnreadableError(
            f"Its XML has {size:,} bytes when unpacked; at most {limits.document_bytes:,} are read."
        )
    # Pictures are not even opened.
    image = mammoth.images.img_element(lambda _: {"src": ""})
    html = mammoth.convert_to_html(BytesIO(content), convert_image=image).value
    about, made_at = {}, None
    if core := archive.find("docProps/core.xml"):
        root = read_xml(archive.read(core))
        about = {str(one.tag).rpartition("}")[2]: (one.text or "").strip() for one in root}
        made_at = parse_date(about.get("created"))
    yield Writing(
        to_markdown(html), about.get("title", ""), published_at=made_at, author=about.get("creator", "")
    )


def read_epub(content: bytes, limits: Limits) -> Iterator[Writing]:
    """Yield a book's chapters as one text, in reading order.

    Raises:
        UnreadableError: it is no book, or is copy-protected.
    """
    archive = ZipTree(BytesIO(content), "", limits)
    container = archive.find("META-INF/container.xml")
    if container is None:
        raise UnreadableError("It is no EPUB: it holds no META-INF/container.xml.")
    if archive.find("META-INF/rights.xml"):
        raise UnreadableError("It is copy-protected.")
    path = next(
        (str(one.get("full-path")) for one in read_xml(archive.read(container)).iter("{*}rootfile")), ""
    )
    package = archive.find(path)
    if package is None:
        raise UnreadableError(f"It is no whole EPUB: it names the package {path!r}, which is not there.")
    root = read_xml(archive.read(package))
    files = {one.get("id"): unquote(one.get("href") or "") for one in root.iter("{*}item")}
    chapters, length = [], 0
    for reference in root.iter("{*}itemref"):
        name = normpath(join(dirname(path), files.get(reference.get("idref"), "")))
        chapter = archive.find(name)
        if chapter is None or reference.get("linear") == "no":
            continue
        text = to_markdown(re.sub(r"^\s*<\?xml[^>]*\?>", "", decode(archive.read(chapter))[0]))
        length += len(text)
        if length > limits.text_chars:
            raise UnreadableError(f"Its text has more than {limits.text_chars:,} characters.")
        chapters.append(text)

    def said(name: str) -> str:
        return next(((one.text or "").strip() for one in root.iter(_DUBLIN_CORE + name)), "")

    published: datetime | None = parse_date(said("date"))
    language = said("language")[:2].lower()
    yield Writing(
        "\n\n".join(filter(None, chapters)),
        said("title"),
        published_at=published,
        author=said("creator"),
        language=language if language.isalpha() else "",
    )
