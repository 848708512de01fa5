"""Tables of records as a source."""

from llm_engineering.infrastructure.sources.tabular.reader import TableReader

__all__ = ["TableReader"]
