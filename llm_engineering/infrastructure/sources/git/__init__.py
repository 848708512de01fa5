"""Git repositories as a source."""

from llm_engineering.infrastructure.sources.git.reader import GitReader

__all__ = ["GitReader"]
