"""Tables that the ZenML dashboard shows."""

from collections.abc import Iterable, Sequence

from zenml.types import MarkdownString


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> MarkdownString:
    """Rows as a Markdown table; cells are escaped so that a title with a bar does not break it."""
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return MarkdownString("\n".join(f"| {line} |" for line in lines))
