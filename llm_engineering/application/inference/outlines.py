"""Plan a longer text: which passages a summary or a comparison is made of, and under which headings."""

from collections.abc import Callable, Mapping, Sequence

from loguru import logger

from llm_engineering.application.inference.collection import Collection
from llm_engineering.application.inference.composing import Outline, Section
from llm_engineering.application.inference.search import as_passages
from llm_engineering.application.text.markdown import Kind, markdown_blocks, shorten
from llm_engineering.application.text.style import pick_evenly
from llm_engineering.domain.categories import is_code
from llm_engineering.domain.documents import CleanDocument, Span
from llm_engineering.domain.errors import StoreError
from llm_engineering.domain.retrieval import Hit, Passage

DOCUMENTS = 6
"""Documents that a summary tells of; the rest is named."""
PARTS = 8
"""Parts of one document that a summary of it tells of."""
PASSAGES = 6
"""Passages of a document or an author that are looked at."""
_NAME = 60
"""Characters of a text that stand for a missing title."""
SECTIONS = 6
"""Sections of a document that are looked at."""
_NO_PROSE = frozenset(
    {"references", "further reading", "related articles", "sources", "literatur", "quellen", "weiterlesen"}
)
"""Headings of lists of other texts."""
_SECTION_WORDS = 20
"""Words below a heading from which there is a section."""

Hits = Mapping[str, Sequence[Hit]]
"""Of each document those about the subject, best first; documents too."""


def outline_summary(
    subject: str,
    found: Hits,
    passages: Mapping[str, Sequence[Passage]],
    *,
    german: bool,
    find_repeated: Callable[[str], tuple[str, ...]] = lambda _: (),
) -> Outline:
    """Plan a summary of what was written on a subject: a part for each document that bears on it, the best first.

    Args:
        passages: of each document that is told of.
        find_repeated: gives the sentences that an author says everywhere.
    """
    sections = []
    for identifier, hits in list(found.items())[:DOCUMENTS]:
        chunk = hits[0].chunk
        sections.append(
            Section(
                heading=f"- **{name_text(chunk.title, chunk.text)}** ({_by(chunk.author, chunk.published_at)}): ",
                question=_ask_about(subject, german),
                subject=subject,
                passages=tuple(passages[identifier]),
                repeated=find_repeated(chunk.author),
            )
        )
    rest = list(found.values())[DOCUMENTS:]
    links = "".join(f"\n- [{name_text(h[0].chunk.title, h[0].chunk.text)}]({h[0].chunk.link})" for h in rest)
    closing = f"\n{'Außerdem' if german else 'Also'}:{links}" if rest else ""
    return Outline("", tuple(sections), closing)


def outline_document(
    document: CleanDocument, *, german: bool, parts: int = PARTS, repeated: Sequence[str] = ()
) -> Outline:
    """Plan a summary of one document: a part for each of its sections.

    Args:
        parts: sections that are told of; those between the first and the last are chosen evenly.
        repeated: sentences that its author says everywhere.
    """
    sections = []
    for passage in pick_evenly(split_sections(document), parts):
        title = passage.headings[-1] if passage.headings else document.title
        sections.append(
            Section(
                heading=f"- **{title}**: ",
                question=f"Was ist die Hauptaussage zu „{title}“?"
                if german
                else f"What is the main point about {title}?",
                subject=title,
                passages=(passage,),
                repeated=tuple(repeated),
            )
        )
    name, by = name_text(document.title, document.text), _by(document.author, document.published_at)
    opening = f"**[{name}]({document.link})** ({by})\n\n"
    return Outline(opening, tuple(sections))


def outline_comparison(
    subject: str,
    compared: Mapping[str, tuple[str, Sequence[Passage]]],
    otherwise: str,
    *,
    named: bool = False,
) -> Outline:
    """Plan a comparison: a part for each author, or each thing, on whom there may be nothing.

    Args:
        compared: by name, what is looked for in which passages.
        otherwise: what to say where there is nothing.
        named: only what names it is quoted.
    """
    sections = tuple(
        Section(
            heading=f"- **{name}**: ",
            question=topic,
            subject=topic,
            passages=tuple(passages),
            otherwise=otherwise,
            named=named,
            compared=tuple(other for other in compared if other != name) if named else (),
        )
        for name, (topic, passages) in compared.items()
    )
    return Outline(f"**{subject}**\n\n" if subject else "", sections)


def _ask_about(subject: str, german: bool) -> str:
    return f"Was wird über {subject} gesagt?" if german else f"What is said about {subject}?"


def name_text(title: str, text: str) -> str:
    """Return a text's title, or its first words."""
    return title or shorten(text, _NAME)


def _by(author: str, published_at: object) -> str:
    return ", ".join(filter(None, (author, f"{published_at:%Y-%m-%d}" if published_at else "")))


def split_sections(document: CleanDocument) -> list[Passage]:
    """Return the sections of a document that hold prose. What stands before the first one, such as a title, belongs to it."""
    found: list[Passage] = []
    start, below = 0, 0
    path: tuple[str, ...] = ()
    heads = [block for block in markdown_blocks(document.text) if block.kind is Kind.HEADING]
    for end, next_path, next_below in (
        *((block.start, block.path, block.end) for block in heads),
        (len(document.text), (), 0),
    ):
        enough = len(document.text[below:end].split()) >= _SECTION_WORDS
        named = path[-1].casefold() if path else ""
        if enough and named not in _NO_PROSE:
            found.append(_passage(document, start, end, path))
        if enough or found:
            start = end
        below, path = next_below, next_path
    return found


def gather_sections(
    found: Hits, collection: Collection, documents: int = DOCUMENTS
) -> dict[str, list[Passage]]:
    """Return, by document, the sections that passages stand in, and the first one of each text. Blocking.

    Args:
        documents: of how many, the best first.
    """
    wanted = dict(list(found.items())[:documents])
    try:
        read = collection.read_documents(list(wanted))
    except StoreError as error:
        logger.warning("Passages are read without what stands around them: {}", error)
        read = {}
    return {identifier: _choose_sections(read.get(identifier), hits) for identifier, hits in wanted.items()}


def _choose_sections(document: CleanDocument | None, hits: Sequence[Hit]) -> list[Passage]:
    sections = split_sections(document) if document is not None and not is_code(document.category) else []
    if not sections:
        return as_passages(hits[:PASSAGES])
    places = [0]
    for hit in hits:
        start = hit.chunk.span.start
        places += [n for n, one in enumerate(sections) if one.span.start <= start < one.span.end]
    return [sections[place] for place in sorted(list(dict.fromkeys(places))[:SECTIONS])]


def _passage(document: CleanDocument, start: int, end: int, path: Sequence[str]) -> Passage:
    return Passage(
        document_id=document.id,
        span=Span(start=start, end=end),
        text=document.text[start:end],
        title=document.title,
        link=document.link,
        author=document.author,
        platform=document.platform,
        published_at=document.published_at,
        category=document.category,
        # A text's first heading often is its title.
        headings=tuple(path[1:] if tuple(path[:1]) == (document.title,) else path),
        score=1.0,
    )
