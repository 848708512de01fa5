"""Categories are data: a new kind of document is one more :class:`CategorySpec`, not a new class."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.facets import Facet, FacetKind


class Chunking(StrEnum):
    """How text of a category is cut into chunks."""

    MARKDOWN = "markdown"
    """By headings, then paragraphs, then sentences. Code blocks and tables are kept together where they fit."""
    CODE = "code"
    """By top-level definitions and blank lines, then lines. White space is never touched."""
    RECORD = "record"
    """A short text that is one chunk where it fits, cut by sentences where it does not."""


class CategorySpec(BaseModel):
    """How documents of one category are treated from collection to retrieval."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    nouns: tuple[str, ...] = ()
    """What people call such documents besides ``name``: "list all essays". Plurals only where they are irregular."""
    chunking: Chunking = Chunking.MARKDOWN
    text_fields: tuple[str, ...] = ("title", "text")
    """Fields of a table row that become the document's text, in this order, when the column map names no ``text``."""
    facets: tuple[Facet, ...] = ()
    """Extra fields of a record that are kept as metadata, with their types: searches filter on them, count and sort by them. A
    name means the same in every category."""
    contract: dict[str, Any] = Field(default_factory=dict)
    """JSON Schema that every record must fit, under the names of its fields; a link may ask for more."""
    mask_personal_data: bool = False
    """Whether personal data is masked in cleaning (support tickets, reviews)."""
    private_authors: bool = False
    """Whether whoever wrote a record is a customer, whose name is not kept: the record has the link's author, or none."""

    @property
    def collection(self) -> str:
        """Return what all of them are called, as in ``POST /movies/search``."""
        return f"{self.name}s"

    @property
    def is_record(self) -> bool:
        """Return whether its documents are rows of a table, which need no author."""
        return bool(self.facets)


CATALOGUE: dict[str, CategorySpec] = {
    spec.name: spec
    for spec in (
        CategorySpec(
            name="article",
            description="A long text on the web: blog post, documentation page, newsletter.",
            nouns=("blog post", "blogpost", "essay", "Artikel"),
        ),
        CategorySpec(
            name="post",
            description="A short text from a social network.",
            nouns=("tweet", "status update", "Beitrag", "Beiträge", "Beiträgen"),
            chunking=Chunking.RECORD,
        ),
        CategorySpec(
            name="repository",
            description="A file of a source code repository.",
            nouns=("repositories", "repo", "code", "file", "Datei"),
            chunking=Chunking.CODE,
        ),
        CategorySpec(
            name="movie",
            description="A movie with its plot.",
            nouns=("film",),
            chunking=Chunking.RECORD,
            text_fields=("title", "genre", "director", "plot"),
            contract={
                "properties": {
                    "year": {"minimum": 1870, "maximum": 2100},
                    "rating": {"minimum": 0, "maximum": 10},
                }
            },
            facets=(
                Facet(name="genre", many=True),
                Facet(name="year", kind=FacetKind.INTEGER),
                Facet(name="director"),
                Facet(name="rating", kind=FacetKind.FLOAT, words=("rated", "stars", "bewertet")),
            ),
        ),
        CategorySpec(
            name="review",
            description="A product review.",
            chunking=Chunking.RECORD,
            text_fields=("title", "review"),
            contract={"properties": {"rating": {"minimum": 1, "maximum": 5}, "helpful": {"minimum": 0}}},
            facets=(
                Facet(name="product"),
                Facet(name="rating", kind=FacetKind.FLOAT, words=("rated", "stars", "bewertet")),
                Facet(name="verified", kind=FacetKind.BOOL, label="verified purchase"),
                Facet(name="helpful", kind=FacetKind.INTEGER, label="helpful votes"),
            ),
            mask_personal_data=True,
            private_authors=True,
        ),
        CategorySpec(
            name="ticket",
            description="A support ticket with its resolution.",
            chunking=Chunking.RECORD,
            text_fields=("title", "description", "resolution"),
            facets=(
                Facet(name="product"),
                Facet(name="status"),
                Facet(name="priority"),
                Facet(name="updated_at", kind=FacetKind.DATETIME, label="last change"),
            ),
            mask_personal_data=True,
            private_authors=True,
        ),
        CategorySpec(
            name="interaction",
            description="A mail, call, chat or meeting with a client.",
            chunking=Chunking.RECORD,
            text_fields=("title", "note"),
            facets=(
                Facet(name="client"),
                Facet(name="channel"),
                Facet(name="direction"),
                Facet(name="thread"),
            ),
            mask_personal_data=True,
            private_authors=True,
        ),
        CategorySpec(
            name="question",
            description="A course question with its answer.",
            chunking=Chunking.RECORD,
            text_fields=("question", "answer"),
            facets=(Facet(name="course"), Facet(name="section")),
        ),
        CategorySpec(
            name="exchange",
            description="A question to a course assistant, with the context it was given.",
            chunking=Chunking.RECORD,
            text_fields=("query", "context"),
            facets=(Facet(name="professor"), Facet(name="course")),
            contract={"required": ["query", "context", "professor"]},
            mask_personal_data=True,
            private_authors=True,
        ),
    )
}


def category_spec(name: str) -> CategorySpec:
    """Return the spec of a category.

    Raises:
        ConfigurationError: no such category; the message lists those that exist.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise ConfigurationError(
            f"There is no category '{name}'. Known categories: {', '.join(sorted(CATALOGUE))}. "
            "A new one is one CategorySpec in llm_engineering/domain/categories.py."
        ) from None


def collect_facets(specs: Iterable[CategorySpec]) -> dict[str, Facet]:
    """Return the facets of some categories by name.

    Raises:
        ConfigurationError: two categories mean different things by one name.
    """
    found: dict[str, Facet] = {}
    for spec in specs:
        for facet in spec.facets:
            other = found.setdefault(facet.name, facet)
            if (other.kind, other.many) != (facet.kind, facet.many):
                raise ConfigurationError(
                    f"The facet '{facet.name}' of category '{spec.name}' is {facet.kind}, elsewhere it is {other.kind}: an index "
                    "holds one kind under a name. Give one of the two another name."
                )
    return found


FACETS: dict[str, Facet] = collect_facets(CATALOGUE.values())
"""All facets by name."""


def find_facet(name: str) -> Facet:
    """Return a facet.

    Raises:
        ValueError: there is none of that name; the message lists those that exist.
    """
    if name not in FACETS:
        raise ValueError(f"there is no facet '{name}'; there are {', '.join(sorted(FACETS))}")
    return FACETS[name]


def is_record(category: str | None) -> bool:
    """Return whether documents of a category are rows of a table."""
    spec = CATALOGUE.get(category or "")
    return spec is not None and spec.is_record


def is_code(category: str) -> bool:
    """Return whether documents of a category are source code; a category that was removed since holds prose."""
    spec = CATALOGUE.get(category)
    return spec is not None and spec.chunking is Chunking.CODE
