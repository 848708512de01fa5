"""What an analysis looks at: every record alone, or a sample of each group's."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from llm_engineering.application.ports import CleanStore
from llm_engineering.domain.analyses import AnalysisSpec, Pick
from llm_engineering.domain.documents import CleanDocument, text_hash
from llm_engineering.domain.facets import MetadataValue

POSTED = "posted:"
"""Begins the keys of texts that came by request, and are no records of the warehouse."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A record, or a group by the ids of what was picked of it."""

    key: str
    document_ids: tuple[str, ...]
    input_hashes: tuple[str, ...]
    documents: tuple[CleanDocument, ...] = ()
    """Empty: to be read by their ids."""


@dataclass(frozen=True, slots=True)
class _Member:
    id: str
    hash: str
    published: str
    metadata: dict[str, MetadataValue]


def hash_input(document: CleanDocument) -> str:
    """Return the hash of what an analysis sees of a record."""
    return text_hash(f"{document.title}\x00{document.text}")


def read_units(clean: CleanStore, spec: AnalysisSpec, *, batch_size: int = 256) -> Iterator[Unit]:
    """Yield what there is to analyse. Records stream; of groups, hashes and metadata are held, and no text."""
    if spec.group_by is None:
        for document in read_records(clean, spec, batch_size):
            yield Unit(document.id, (document.id,), (hash_input(document),), (document,))
        return
    groups: dict[str, list[_Member]] = defaultdict(list)
    for document in read_records(clean, spec, batch_size):
        name = document.metadata.get(spec.group_by)
        copied = document.duplicate_group not in (None, document.id)
        if name is None or not str(name).strip() or copied:
            continue
        published = document.published_at.isoformat() if document.published_at else ""
        groups[str(name)].append(_Member(document.id, hash_input(document), published, document.metadata))
    for name in sorted(groups):
        picked = pick_members(groups[name], spec.sampler)
        if picked:
            yield Unit(name, tuple(one.id for one in picked), tuple(one.hash for one in picked))


def pick_members(members: Sequence[_Member], picks: Iterable[Pick]) -> list[_Member]:
    """Return the members that the picks name, each once, in the picks' order."""
    chosen: dict[str, _Member] = {}
    for pick in picks:
        fitting = [one for one in members if _fits(one, pick)]
        fitting.sort(key=lambda one: one.id)  # ids break ties, so that a rerun picks the same
        if pick.order_by is None:
            fitting.sort(key=lambda one: one.published, reverse=True)
        else:
            fitting.sort(key=_rank_by(pick.order_by), reverse=True)
        chosen |= {one.id: one for one in [m for m in fitting if m.id not in chosen][: pick.most]}
    return list(chosen.values())


def read_records(clean: CleanStore, spec: AnalysisSpec, batch_size: int = 256) -> Iterator[CleanDocument]:
    """Yield the records that a spec is about, in the order of the store."""
    for category in spec.categories or (None,):
        for document in clean.stream(category=category, batch_size=batch_size):
            if not spec.platforms or document.platform in spec.platforms:
                yield document


def _fits(member: _Member, pick: Pick) -> bool:
    if pick.field is None:
        return True
    value = _number(member.metadata.get(pick.field))
    if value is None:
        return False
    return (pick.at_least is None or value >= pick.at_least) and (
        pick.at_most is None or value <= pick.at_most
    )


def _rank_by(field: str) -> Callable[[_Member], float]:
    def rank(member: _Member) -> float:
        value = _number(member.metadata.get(field))
        return float("-inf") if value is None else value

    return rank


def _number(value: MetadataValue | None) -> float | None:
    try:
        return None if value is None or isinstance(value, tuple) else float(value)
    except ValueError:
        return None
