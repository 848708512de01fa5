"""An ordered class over time: one score for each group and entity, in which old records weigh less than new ones."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from llm_engineering.application.failures import group_batches
from llm_engineering.application.ports import AnalysisStore, CleanStore
from llm_engineering.domain.analyses import Analysis, AnalysisField, AnalysisSpec, Evidence
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.errors import ConfigurationError

NO_ENTITY = "–"
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Trend:
    """How a group stands to an entity."""

    group: str
    entity: str
    score: float
    """Decayed mean of the class's place in its order, 0 (lowest) to 1 (highest)."""
    change: float
    """Score minus what it was one half-life ago; 0 where there was none."""
    records: int
    last: datetime
    quote: str
    """The newest evidence for the class."""
    document_id: str


def read_trends(
    spec: AnalysisSpec,
    analyses: AnalysisStore,
    clean: CleanStore,
    group_by: str,
    now: datetime,
    half_life_days: float = 30.0,
) -> list[Trend]:
    """Return how every group stands to every entity, by the results that are stored.

    Raises:
        ConfigurationError: the spec has no ordered class, or no entities.
    """
    field, entities = find_trend_fields(spec)
    results = list(analyses.stream(task=spec.task))
    documents: dict[str, CleanDocument] = {}
    for batch in group_batches([one.key for one in results], _BATCH):
        documents |= {document.id: document for document in clean.get(batch)}
    return compute_trends(results, documents, field, entities, group_by, now, half_life_days=half_life_days)


def find_trend_fields(spec: AnalysisSpec) -> tuple[AnalysisField, str]:
    """Return the ordered class of a spec and the name of its entities.

    Raises:
        ConfigurationError: it has not both.
    """
    field = next((one for one in spec.fields if one.ordered), None)
    entities = next((one.name for one in spec.fields if one.kind == "entities"), None)
    if field is None or entities is None:
        raise ConfigurationError(
            f"{spec.task} has no ordered class and entities, of which a trend could be made."
        )
    return field, entities


def compute_trends(
    results: Iterable[Analysis],
    documents: Mapping[str, CleanDocument],
    field: AnalysisField,
    entities: str,
    group_by: str,
    now: datetime,
    *,
    half_life_days: float = 30.0,
) -> list[Trend]:
    """Return the groups and entities, those with the highest score first.

    Args:
        documents: of the results, by id; records without a date or a group are left out.
        field: the ordered class.
        entities: the field of the entities; a record that names none counts for ``–``.
        group_by: metadata that names the group.
    """
    seen: dict[tuple[str, str], list[tuple[datetime, float, Evidence | None, str]]] = defaultdict(list)
    top = max(1, len(field.values) - 1)
    for result in results:
        document = documents.get(result.key)
        finding = next((one for one in result.findings if one.field == field.name), None)
        if document is None or finding is None or document.published_at is None:
            continue
        group = document.metadata.get(group_by)
        if group is None or str(finding.value) not in field.values or document.published_at > now:
            continue
        level = field.values.index(str(finding.value)) / top
        evidence = finding.evidence[0] if finding.evidence else None
        for entity in dict.fromkeys(map(str, result.list_values(entities))) or (NO_ENTITY,):
            seen[str(group), entity].append((document.published_at, level, evidence, document.id))
    found = [
        _summarise(group, entity, sorted(rows, key=lambda row: (row[0], row[3])), now, half_life_days)
        for (group, entity), rows in seen.items()
    ]
    return sorted(found, key=lambda one: (-one.score, -one.last.timestamp(), one.group, one.entity))


def _summarise(
    group: str,
    entity: str,
    rows: Sequence[tuple[datetime, float, Evidence | None, str]],
    now: datetime,
    half_life_days: float,
) -> Trend:
    def score(until: float) -> float | None:
        aged = [((now - at).total_seconds() / 86_400 - until, level) for at, level, _, _ in rows]
        weighed = [(0.5 ** (age / half_life_days), level) for age, level in aged if age >= 0]
        total = sum(weight for weight, _ in weighed)
        return sum(weight * level for weight, level in weighed) / total if total else None

    present = score(0.0) or 0.0
    before = score(half_life_days)
    at, _, evidence, document = rows[-1]
    quote = evidence.quote if evidence is not None else ""
    change = 0.0 if before is None else present - before
    return Trend(group, entity, present, change, len(rows), at, quote, document)
