"""What people said is right about records, where an analysis said something else."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from llm_engineering.application.ports import FeedbackStore

Value = str | float | tuple[str, ...]


def read_corrections(store: FeedbackStore, task: str) -> dict[str, dict[str, list[Value]]]:
    """Return what each voter said last of a record's field, oldest first, by document id and field. What was said of a group
    is of no record."""
    latest: dict[tuple[str, str, str], Value] = {}
    for vote in store.read_corrections(task):
        if len(vote.document_ids) == 1:
            for field, value in (vote.correction or {}).items():
                key = (vote.document_ids[0], field, vote.voter)
                latest.pop(key, None)  # so that the newest stands last
                latest[key] = value
    found: dict[str, dict[str, list[Value]]] = defaultdict(lambda: defaultdict(list))
    for (document, field, _), value in latest.items():
        found[document][field].append(value)
    return {document: dict(fields) for document, fields in found.items()}


def choose_majority(values: Sequence[Value]) -> Value | None:
    """Return what most said; of several said equally often, the latest; None: nobody said anything."""
    counts = Counter(values)
    most = max(counts.values(), default=0)
    return next((value for value in reversed(values) if counts[value] == most), None)
