"""Categories are data: a new kind of document is one more :class:`CategorySpec`, not a new class."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from llm_engineering.domain.errors import ConfigurationError


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
    metadata_fields: tuple[str, ...] = ()
    """Extra fields of a record that are kept as metadata and can be filtered on."""
    mask_personal_data: bool = False
    """Whether e-mail addresses and phone numbers are masked in cleaning (support tickets, reviews)."""


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
            text_fields=("title", "genre", "plot"),
            metadata_fields=("genre", "year", "director"),
        ),
        CategorySpec(
            name="review",
            description="A product review.",
            chunking=Chunking.RECORD,
            text_fields=("title", "review"),
            metadata_fields=("product", "rating"),
            mask_personal_data=True,
        ),
        CategorySpec(
            name="ticket",
            description="A support ticket with its resolution.",
            chunking=Chunking.RECORD,
            text_fields=("title", "description", "resolution"),
            metadata_fields=("product", "status", "priority"),
            mask_personal_data=True,
        ),
        CategorySpec(
            name="question",
            description="A course question with its answer.",
            chunking=Chunking.RECORD,
            text_fields=("question", "answer"),
            metadata_fields=("course", "section"),
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


def is_code(category: str) -> bool:
    """Return whether documents of a category are source code; a category that was removed since holds prose."""
    spec = CATALOGUE.get(category)
    return spec is not None and spec.chunking is Chunking.CODE
