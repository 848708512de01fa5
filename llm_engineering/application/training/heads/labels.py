"""Where labels come from: what people corrected, the metadata of records, and files."""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from llm_engineering.application.analysis.config import HeadTraining
from llm_engineering.application.analysis.corrections import choose_majority, read_corrections
from llm_engineering.application.analysis.grouping import read_records
from llm_engineering.application.analysis.heads import compose_text
from llm_engineering.application.ports import CleanStore, FeedbackStore
from llm_engineering.application.training.groups import join_groups
from llm_engineering.application.training.heads.train import Label
from llm_engineering.domain.analyses import AnalysisField, AnalysisSpec
from llm_engineering.domain.documents import CleanDocument, text_hash
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.facets import MetadataValue


class LabelStores(Protocol):
    """What labels are read from."""

    @property
    def clean(self) -> CleanStore: ...

    @property
    def feedback(self) -> FeedbackStore: ...


@dataclass(frozen=True, slots=True)
class FoundLabels:
    """Labels of one field."""

    labels: tuple[Label, ...]
    counts: dict[str, int]
    """How many came from where, and how many could not be used."""
    agreement: float | None
    """Krippendorff's alpha of those who corrected the same records; None: no two did, or all said the same."""


def collect_labels(
    spec: AnalysisSpec, field: AnalysisField, config: HeadTraining, stores: LabelStores
) -> FoundLabels:
    """Return the labels of a field, each text once: a correction counts before metadata, and metadata before a file.

    Raises:
        InvalidInputError: a file is missing, or has no such columns.
    """
    counts: Counter[str] = Counter()
    found: dict[str, Label] = {}
    spoken = _read_spoken(stores.feedback, spec.task, field.name) if config.corrections else {}
    groups: dict[str, list[str]] = {}
    for document in read_records(stores.clean, spec) if config.metadata or spoken else ():
        given: MetadataValue | None = choose_majority(spoken.get(document.id, ()))
        source = "corrections"
        if given is None and config.metadata:
            given, source = document.metadata.get(field.name), "metadata"
        if given is not None:
            groups[document.id] = _list_groups(document, config.group_by)
            _keep(Label(compose_text(document), str(given), document.id), source, field, found, counts)
    for file in config.files:
        for text, value in read_labelled(file, field.name):
            _keep(Label(text, value, text_hash(text)), "files", field, found, counts)
    joined = join_groups(groups)
    labels = tuple(replace(label, group=joined.get(label.group, label.group)) for label in found.values())
    return FoundLabels(labels, dict(sorted(counts.items())), compute_alpha(list(spoken.values())))


def read_labelled(file: Path, column: str) -> Iterator[tuple[str, str]]:
    """Yield text and label of each row of a CSV or JSON Lines file.

    Raises:
        InvalidInputError: there is no such file, it cannot be read, or a row lacks one of the two.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines) if file.suffix == ".csv" else map(json.loads, lines)
            for number, row in enumerate(rows, start=1):
                text, value = _pick(row, "text"), _pick(row, column)
                if not text or not value:
                    raise InvalidInputError(
                        f"{file}, row {number}: expected a text in 'text' and a label in '{column}'."
                    )
                yield text, value
    except FileNotFoundError:
        raise InvalidInputError(f"There is no file of labels {file}.") from None
    except (OSError, ValueError, csv.Error) as error:
        raise InvalidInputError(f"The file of labels {file} cannot be read: {error}") from None


def compute_alpha(units: Sequence[Sequence[str]]) -> float | None:
    """Return Krippendorff's alpha for names: 1 all agree, 0 as by chance; None where it is not defined."""
    paired = [unit for unit in units if len(unit) > 1]
    total = Counter(value for unit in paired for value in unit)
    size = total.total()
    if len(total) < 2:
        return None
    observed = sum(
        (len(unit) ** 2 - sum(count**2 for count in Counter(unit).values())) / (len(unit) - 1)
        for unit in paired
    )
    expected = (size**2 - sum(count**2 for count in total.values())) / (size - 1)
    return 1 - observed / expected


def _read_spoken(store: FeedbackStore, task: str, field: str) -> dict[str, list[str]]:
    """What each voter said last of a field, by document."""
    return {
        document: named
        for document, fields in read_corrections(store, task).items()
        if (named := [value for value in fields.get(field, ()) if isinstance(value, str)])
    }


def _list_groups(document: CleanDocument, field: str | None) -> list[str]:
    """Names of what stays on one side of a split with a document: near-duplicates on both sides would be learned by heart."""
    named = document.metadata.get(field) if field else None
    names = [f"{field}:{named}" if named is not None else "", document.duplicate_group or ""]
    return list(filter(None, names)) or [document.id]


def _pick(row: object, name: str) -> str:
    value = row.get(name) if isinstance(row, Mapping) else None
    return str(value).strip() if value is not None else ""


def _keep(
    label: Label, source: str, field: AnalysisField, found: dict[str, Label], counts: Counter[str]
) -> None:
    key = " ".join(label.text.casefold().split())
    if label.value not in field.values:
        counts[f"left out: not a value of {field.name}"] += 1
    elif key in found:
        counts["left out: text used before"] += 1
    else:
        found[key] = label
        counts[source] += 1
