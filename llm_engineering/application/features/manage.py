"""Look after the collection: what is in it, what was left out, and forgetting a part of it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches

from pydantic import BaseModel

from llm_engineering.application.features.links import load_link
from llm_engineering.application.features.voices import build_voice_profiles
from llm_engineering.application.ports import (
    DeadLetterStore,
    DraftStore,
    Link,
    VectorIndex,
    Warehouse,
)
from llm_engineering.application.text.pii import compile_names, names_any
from llm_engineering.domain.documents import DeadLetter, RawDocument, User, derive_id
from llm_engineering.domain.drafts import StoredDraft
from llm_engineering.domain.errors import InvalidInputError, StoreUnavailableError

COLLECT_STAGE = "collect"
DRAFTS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Stock:
    """What the collection holds, in documents unless said otherwise."""

    sources: dict[tuple[str, str], int]
    """By the link that the user gave, and author."""
    categories: dict[str, int]
    chunks_by_author: dict[str, int]
    """Passages in the index, of those that have an author."""
    unclean: int
    """Collected, and not cleaned yet."""
    unindexed: int
    """Cleaned, and not in the index yet."""
    rejected: dict[str, int]
    """Dead letters by stage."""
    chunks: int = 0
    """Passages in the index."""

    @property
    def documents(self) -> int:
        return sum(self.sources.values())


@dataclass(frozen=True, slots=True)
class Selection:
    """Documents that may be forgotten together, with what was rejected from the same source."""

    documents: tuple[RawDocument, ...]
    letters: tuple[DeadLetter, ...] = ()

    @property
    def ids(self) -> list[str]:
        return [document.id for document in self.documents]


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What was removed."""

    documents: int
    chunks: int
    rejected: int
    drafts: int
    """Drafts with passages of the documents; those that a person edited are that person's, and stay."""
    authors: tuple[str, ...]
    """Of whom nothing is left."""


def take_stock(warehouse: Warehouse, index: VectorIndex) -> Stock:
    """Count what is in the collection.

    Raises:
        StoreError: the warehouse or the index cannot be read.
    """
    categories: Counter[str] = Counter()
    for (category, _), count in warehouse.documents.count_documents().items():
        categories[category] += count
    raw = {identifier for identifier, _ in warehouse.documents.list_hashes()}
    clean = {identifier for identifier, _ in warehouse.clean.list_versions()}
    indexed: set[str] = set()
    chunks: dict[str, int] = {}
    total = 0
    with suppress(StoreUnavailableError):  # no index yet, or its server is down: no passages can be found
        indexed = {identifier for identifier, _ in index.list_versions()}
        chunks, total = index.count_values("author"), index.count()
    return Stock(
        sources=warehouse.documents.count_sources(),
        categories=dict(categories),
        chunks_by_author=chunks,
        unclean=len(raw - clean),
        unindexed=len(clean - indexed),
        rejected=dict(Counter(letter.stage for letter in warehouse.dead_letters.stream())),
        chunks=total,
    )


def select_author(warehouse: Warehouse, name: str) -> Selection:
    """Return all of an author's documents; spacing and case of the name do not matter.

    Raises:
        InvalidInputError: nobody of that name is in the collection.
    """
    wanted = User(full_name=name).id
    documents = tuple(warehouse.documents.stream(author=name))
    letters = tuple(
        letter
        for letter in warehouse.dead_letters.stream(COLLECT_STAGE)
        if (link := load_link(letter.link))
        and link.author.strip()
        and User(full_name=link.author).id == wanted
    )
    if not documents and not letters:
        names = sorted({author for _, author in warehouse.documents.count_sources()})
        close = get_close_matches(name, names, n=1, cutoff=0.6)
        hint = f"Closest: {close[0]}." if close else f"There are: {', '.join(names) or 'none'}."
        raise InvalidInputError(f"Nothing by {name} is in the collection. {hint}")
    return Selection(documents, letters)


def select_links(warehouse: Warehouse, spellings: Iterable[str]) -> Selection:
    """Return the documents that were collected through these links, or stand under them.

    Args:
        spellings: links as they may have been given; of those that were not collected nothing comes.
    """
    wanted = list(dict.fromkeys(spellings))
    found: dict[str, RawDocument] = {}
    for link in wanted:
        stored = [derive_id("document", one) for one in warehouse.documents.find_stored(link)]
        for document in warehouse.documents.get([derive_id("document", link), *stored]):
            found[document.id] = document
    sources = {*wanted, *(document.link for document in found.values())}
    letters = tuple(
        letter
        for letter in warehouse.dead_letters.stream(COLLECT_STAGE)
        if letter.source in sources or ((given := load_link(letter.link)) and given.url in wanted)
    )
    return Selection(tuple(found.values()), letters)


def forget(selection: Selection, warehouse: Warehouse, index: VectorIndex) -> ForgetReport:
    """Remove documents with what was made of them: cleaned texts, passages, voice profiles, rejected records, drafts.

    Killed in between, the next feature run removes what is left.

    Raises:
        StoreError: a store failed, or another process is writing the index; what is left then goes with the next feature run.
    """
    ids = selection.ids
    before = _count_chunks(index)
    warehouse.documents.delete(ids)
    warehouse.clean.delete(ids)
    index.erase(ids)
    after = _count_chunks(index)
    for stage, letters in _by_stage(selection.letters, ids, warehouse.dead_letters).items():
        warehouse.dead_letters.resolve(stage, letters)
    build_voice_profiles(warehouse.clean, warehouse.voices)
    drafts = _forget_drafts(warehouse.drafts, set(ids))
    left = {User(full_name=author).id for _, author in warehouse.documents.count_sources() if author}
    gone = {
        document.author_id: document.author
        for document in selection.documents
        if document.author and document.author_id not in left
    }
    warehouse.users.delete(list(gone))
    return ForgetReport(
        len(ids), before - after, len(selection.letters), drafts, tuple(sorted(gone.values()))
    )


@dataclass(frozen=True, slots=True)
class PersonTraces:
    """What the stores hold that names a person."""

    selection: Selection
    notices: tuple[str, ...] = ()
    analyses: tuple[str, ...] = ()
    summaries: tuple[str, ...] = ()
    """Of reviews; made anew from what is left."""
    drafts: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    voices: int = 0
    """Profiles of authors, which are made anew from what is left."""
    votes: int = 0
    """Answers that somebody voted on, which are kept for training."""
    corrections: int = 0
    """Corrections of analyses, which are kept for training."""

    @property
    def counts(self) -> dict[str, int]:
        """Return how many records there are in each store."""
        return {
            "documents, clean documents": len(self.selection.documents),
            "rejected records": len(self.selection.letters),
            "notices": len(self.notices),
            "analyses": len(self.analyses),
            "summaries of reviews": len(self.summaries),
            "drafts": len(self.drafts),
            "authors": len(self.users),
            "voices": self.voices,
            "answers that were voted on": self.votes,
            "corrections of analyses": self.corrections,
        }

    @property
    def count(self) -> int:
        """Return how many records there are."""
        return sum(self.counts.values())


def find_person(warehouse: Warehouse, spellings: Sequence[str]) -> PersonTraces:
    """Return what names a person in any of some spellings (name, address, pseudonym), as whole words; case and line breaks do
    not matter.

    Everything that is kept for good is read, which takes as long as an export. Not read: replies and embeddings that are kept
    by a hash, and answers that nobody voted on, which go by themselves.
    """
    wanted = compile_names(spellings)

    def names(record: BaseModel) -> bool:
        return wanted is not None and names_any(record, wanted)

    documents = {document.id: document for document in warehouse.documents.stream() if names(document)}
    # Cleaning may have put a pseudonym in the place of a name.
    missing = [clean.id for clean in warehouse.clean.stream() if clean.id not in documents and names(clean)]
    documents |= {document.id: document for document in warehouse.documents.get(missing)}
    return PersonTraces(
        Selection(
            tuple(documents.values()),
            tuple(letter for letter in warehouse.dead_letters.stream() if names(letter)),
        ),
        notices=tuple(kept.id for kept in warehouse.notices.stream() if names(kept)),
        analyses=tuple(
            one.id
            for one in warehouse.analyses.stream()
            if names(one) or not documents.keys().isdisjoint(one.document_ids)
        ),
        summaries=tuple(
            one.id for one in warehouse.summaries.stream() if names(one) or one.rests_on(documents.keys())
        ),
        drafts=tuple(draft.id for draft in _read_drafts(warehouse.drafts) if names(draft)),
        users=tuple(user.id for user in warehouse.users.all() if names(user)),
        voices=sum(map(names, warehouse.voices.list_profiles())),
        votes=sum(names(given) or names(said) for given, said in warehouse.feedback.read_votes()),
        corrections=sum(map(names, warehouse.feedback.read_corrections())),
    )


def forget_person(traces: PersonTraces, warehouse: Warehouse, index: VectorIndex) -> ForgetReport:
    """Remove what names a person: whole documents with all that was made of them, analyses, drafts (edited ones as well),
    rejected records, notices. Votes and corrections stay.

    Raises:
        StoreError: see :func:`forget`.
    """
    warehouse.notices.delete(traces.notices)
    warehouse.analyses.delete(traces.analyses)
    warehouse.summaries.delete(traces.summaries)
    drafts = sum(map(warehouse.drafts.delete, traces.drafts))
    report = forget(traces.selection, warehouse, index)
    warehouse.users.delete(traces.users)
    return replace(report, drafts=report.drafts + drafts)


def find_retries(letters: Iterable[DeadLetter]) -> list[Link]:
    """Return the links to collect again, each once, so that what was rejected is tried anew."""
    links = (load_link(letter.link) for letter in letters)
    return list({link.url: link for link in links if link is not None}.values())


def _forget_drafts(store: DraftStore, ids: set[str]) -> int:
    """Delete the drafts that hold passages of the documents and that nobody edited."""
    return sum(
        store.delete(draft.id)
        for draft in _read_drafts(store)
        if not draft.edits and any(citation.passage.document_id in ids for citation in draft.answer.citations)
    )


def _read_drafts(store: DraftStore) -> Iterator[StoredDraft]:
    before = None
    while page := store.read_page(DRAFTS_AT_ONCE, before=before):
        before = page[-1].created_at, page[-1].id
        yield from page


def _count_chunks(index: VectorIndex) -> int:
    with suppress(StoreUnavailableError):
        return index.count()
    return 0


def _by_stage(
    letters: Sequence[DeadLetter], ids: Sequence[str], store: DeadLetterStore
) -> dict[str, list[str]]:
    """Sources of letters to forget, by stage: the chosen ones, and what later stages say of the documents."""
    doomed: dict[str, list[str]] = {}
    known = set(ids)
    chosen = {letter.id for letter in letters}
    for letter in store.stream():
        if letter.id in chosen or (letter.stage != COLLECT_STAGE and letter.source in known):
            doomed.setdefault(letter.stage, []).append(letter.source)
    return doomed
