"""Edited drafts as training data: the person's version is ``chosen``, the draft ``rejected``, the request the prompt.

Nothing is made of drafts that broke off, for that was not the model's choice; of those that only quote the author, whose
own words must not be rejected; and of edits that change spacing alone.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from llm_engineering.application.failures import group_batches
from llm_engineering.application.ports import CleanStore
from llm_engineering.application.text.pii import mask_personal_data
from llm_engineering.application.text.words import language_of, split_words
from llm_engineering.application.training.datasets.feedback import MIN_ANSWER, FromFeedback, strip_citations
from llm_engineering.domain.datasets import Origin, PreferenceSample, Provenance
from llm_engineering.domain.documents import CleanDocument, Span, derive_id, text_hash
from llm_engineering.domain.drafts import StoredDraft
from llm_engineering.domain.retrieval import GIVEN_TEXT, Passage

_BATCH = 64


def samples_of_edits(
    drafts: Iterable[StoredDraft], clean: CleanStore, author: str | None = None
) -> FromFeedback:
    """Return preference samples of edited drafts.

    Args:
        author: only drafts in this author's voice; None: everybody's.

    Raises:
        StoreError: drafts or documents cannot be read.
    """
    made = FromFeedback()
    for batch in group_batches(drafts, _BATCH):
        wanted = {citation.passage.document_id for draft in batch for citation in draft.answer.citations}
        documents = {document.id: document for document in clean.get(sorted(wanted))}
        for draft in batch:
            made.counts["edits"] += 1
            made.counts[_add(made, draft, documents, author)] += 1
    return made


def _add(
    made: FromFeedback, draft: StoredDraft, documents: Mapping[str, CleanDocument], author: str | None
) -> str:
    """Make a sample of an edited draft, or say why not."""
    if author is not None and _fold(author) != _fold(draft.brief.author or ""):
        return "edit in another author's voice"
    if draft.unfinished:
        return "edit of a draft that broke off"
    if draft.answer.quoted:
        return "edit of quotations"
    chosen, rejected = _clean(draft.text), _clean(draft.answer.text)
    if chosen.split() == rejected.split():
        return "edit of spacing alone"
    if min(len(chosen), len(rejected)) < MIN_ANSWER:
        return "edit of too short a text"
    origin = _find_origin(draft, chosen, documents)
    if origin is None:
        return "edit whose documents are gone"
    answer = draft.answer
    made.preference.append(
        PreferenceSample(
            prompt=_clean(_request(draft)),
            chosen=chosen,
            rejected=rejected,
            origin=origin,
            provenance=Provenance(made_by="edit", model=answer.model, prompt_hash=answer.prompt_hash),
        )
    )
    return "preference sample of an edit"


def _request(draft: StoredDraft) -> str:
    """What was asked for; with the text that was to be rewritten, without which it says little."""
    given = [c.passage.text for c in draft.answer.citations if c.passage.document_id == GIVEN_TEXT]
    return "\n\n".join([draft.answer.question, *given])


def _find_origin(draft: StoredDraft, chosen: str, documents: Mapping[str, CleanDocument]) -> Origin | None:
    """The document that backs most of the draft, so that it is split as that one is. A text that the caller gave is a
    document of its own."""
    backing = Counter(support.source for support in draft.answer.supports if support.source is not None)
    ranked = sorted(draft.answer.citations, key=lambda citation: (-backing[citation.number], citation.number))
    for citation in ranked:
        passage = citation.passage
        if passage.document_id == GIVEN_TEXT:
            return _given_origin(draft, passage, chosen)
        document = documents.get(passage.document_id)
        if document is not None:
            return Origin(
                document_id=document.id,
                content_hash=document.content_hash,
                span=passage.span,
                title=document.title,
                author=document.author,
                category=document.category,
                language=_language(chosen) or document.language,
            )
    return None


def _given_origin(draft: StoredDraft, passage: Passage, chosen: str) -> Origin:
    return Origin(
        document_id=derive_id("draft", draft.id),
        content_hash=text_hash(passage.text),
        span=Span(start=0, end=len(passage.text)),
        title=passage.title,
        author=draft.brief.author or "",
        category=draft.brief.format,
        language=_language(chosen) or "und",
    )


def _language(text: str) -> str | None:
    return language_of(split_words(text))


def _clean(text: str) -> str:
    return mask_personal_data(strip_citations(text).strip())


def _fold(name: str) -> str:
    return " ".join(name.casefold().split())
