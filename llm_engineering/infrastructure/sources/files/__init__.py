"""Writing that lies on this machine: files, folders, mailboxes, and the archives that services hand out."""

from llm_engineering.infrastructure.sources.files.reader import FilesReader

__all__ = ["FilesReader"]
