"""Drafts that the twin wrote, and what people made of them."""

import difflib
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field

from llm_engineering.domain.documents import Model, UtcDatetime
from llm_engineering.domain.inference import ResponseProvenance
from llm_engineering.domain.retrieval import Answer

KEPT_EDITS = 50
"""Versions of a person that are kept of a draft, the newest ones; beside them always the draft itself."""
_CONTEXT = 3
"""Unchanged lines that are shown around a change."""
_WORD = re.compile(r"\s+|\S+")


class DraftBrief(Model):
    """What was to be written, as it was understood."""

    subject: str
    format: str
    """``post``, ``article``, ``thread`` …"""
    words: int
    author: str | None = None
    """Whose voice it was to have."""


class DraftEdit(Model):
    """A version that a person made."""

    revision: int = Field(ge=1)
    text: str = Field(min_length=1)
    created_at: UtcDatetime


class StoredDraft(Model):
    """A draft as kept, with the versions that a person made of it. Its id is the trace id of its request."""

    id: str
    brief: DraftBrief
    answer: Answer
    """What the model wrote, with its sources and the verdicts on its sentences."""
    provenance: ResponseProvenance
    unfinished: bool = False
    """It broke off: the model failed, or whoever asked for it left."""
    created_at: UtcDatetime
    edits: tuple[DraftEdit, ...] = ()
    """Oldest first."""

    @property
    def revision(self) -> int:
        """Number of the newest version; 0 is the draft itself."""
        return self.edits[-1].revision if self.edits else 0

    @property
    def text(self) -> str:
        """The newest version."""
        return self.edits[-1].text if self.edits else self.answer.text

    def find_version(self, revision: int) -> str | None:
        """Return the text of a version; None: there is none of that number, or it is no longer kept."""
        if revision == 0:
            return self.answer.text
        return next((edit.text for edit in self.edits if edit.revision == revision), None)

    def revise(self, text: str, at: datetime) -> "StoredDraft":
        """Return the draft with one more version."""
        edit = DraftEdit(revision=self.revision + 1, text=text, created_at=at)
        return self.model_copy(update={"edits": (*self.edits, edit)[-KEPT_EDITS:]})


class DiffPart(Model):
    """A piece of text that two versions share, or that one of them lacks."""

    kind: Literal["same", "removed", "added", "skipped"]
    """``skipped``: unchanged lines that are left out; their text is empty."""
    text: str


class DraftDiff(Model):
    """What changed from one version to another."""

    from_revision: int
    to_revision: int
    lines: tuple[DiffPart, ...]
    """Changed lines, with a few unchanged ones around them."""
    words: tuple[DiffPart, ...]
    """The whole text, word by word, as an editor shows changes."""


def compare_versions(draft: StoredDraft, first: int, second: int) -> DraftDiff | None:
    """Return what changed between two versions; None where one of them is not kept."""
    old, new = draft.find_version(first), draft.find_version(second)
    if old is None or new is None:
        return None
    return DraftDiff(
        from_revision=first,
        to_revision=second,
        lines=tuple(_compare_lines(old, new)),
        words=tuple(_compare_words(old, new)),
    )


def _compare_lines(old: str, new: str) -> Iterator[DiffPart]:
    kinds: dict[str, Literal["same", "removed", "added", "skipped"]] = {
        " ": "same",
        "-": "removed",
        "+": "added",
        "@": "skipped",
    }
    compared = difflib.unified_diff(_split(old), _split(new), n=_CONTEXT, lineterm="")
    for number, line in enumerate(compared):
        if number > 1:  # behind the names of two files, which there are not
            kind = kinds[line[0]]
            yield DiffPart(kind=kind, text="" if kind == "skipped" else line[1:])


def _split(text: str) -> list[str]:
    # Not splitlines(): a line that ends in U+2028 is none to a person's editor.
    return text.split("\n")


def _compare_words(old: str, new: str) -> Iterator[DiffPart]:
    before, after = _WORD.findall(old), _WORD.findall(new)
    compared = difflib.SequenceMatcher(None, before, after)
    for tag, start, end, since, until in compared.get_opcodes():
        if tag == "equal":
            yield _joined("same", after[since:until])
        if tag in ("replace", "delete"):
            yield _joined("removed", before[start:end])
        if tag in ("replace", "insert"):
            yield _joined("added", after[since:until])


def _joined(kind: Literal["same", "removed", "added"], words: Sequence[str]) -> DiffPart:
    return DiffPart(kind=kind, text="".join(words))
