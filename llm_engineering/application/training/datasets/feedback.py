"""Votes of readers as training data.

A down-voted answer is ``rejected`` against the author's own passage, of the documents that the answer cited. That a
reader disliked an answer does not make any passage a good one, so the passage must cover what the question asks.

An up-voted answer shows a question worth answering and documents that answer it. Its text is the model's, and a model
trained on its own words moves away from the author, not towards him; so the question becomes an instruction, and the
author's passage its answer. Nothing is made of answers that declined, and of those that only quote the author.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import Field

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.failures import group_batches
from llm_engineering.application.ports import CleanStore
from llm_engineering.application.text.overlap import content_words, has_common_ngram
from llm_engineering.application.text.pii import mask_personal_data
from llm_engineering.application.text.sentences import Unit, split_units
from llm_engineering.application.training.datasets.passages import Passage, PassageConfig, split_passages
from llm_engineering.application.training.datasets.samples import describe_origin
from llm_engineering.domain.datasets import InstructSample, PreferenceSample, Provenance
from llm_engineering.domain.documents import CleanDocument, Span
from llm_engineering.domain.inference import Feedback, Interaction

_MARKER = re.compile(r"\s*\[\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*\]")
_BATCH = 64
MIN_ANSWER = 20


class FeedbackConfig(StrictConfig):
    """How votes are turned into samples."""

    RENAMED: ClassVar = {"max_copied_run": "max_ngram_overlap"}

    min_covered: float = Field(default=0.6, ge=0, le=1)
    """Share of the question's content words that must stand in the author's passage, its title or its headings."""
    max_ngram_overlap: int = Field(default=15, ge=5)
    """Words in a row that a down-voted answer may share with the passage; more, and it quotes the author."""
    max_length_ratio: float = Field(default=1.6, ge=1)
    """Longer of the two texts to the shorter one; sentences of the passage are chosen to come near the answer's length."""


@dataclass(slots=True)
class FromFeedback:
    """Samples of votes, and what became of all votes."""

    preference: list[PreferenceSample] = field(default_factory=list)
    instruct: list[InstructSample] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def samples_of_votes(
    votes: Iterable[tuple[Interaction, Feedback]],
    clean: CleanStore,
    cut: PassageConfig,
    config: FeedbackConfig,
) -> FromFeedback:
    """Return samples of all votes.

    Raises:
        StoreError: votes or documents cannot be read.
    """
    made = FromFeedback()
    for batch in group_batches(votes, _BATCH):
        wanted = sorted({source for answer, _ in batch for source in answer.sources})
        documents = {document.id: document for document in clean.get(wanted)}
        for answer, vote in batch:
            made.counts[f"votes {vote.rating}"] += 1
            reason = _add(made, answer, vote, documents, cut, config)
            made.counts[reason] += 1
    return made


def strip_citations(text: str) -> str:
    """Return a text without the numbers of its sources: ``[1]``, ``[2, 3]``."""
    return _MARKER.sub("", text)


def _add(
    made: FromFeedback,
    answer: Interaction,
    vote: Feedback,
    documents: dict[str, CleanDocument],
    cut: PassageConfig,
    config: FeedbackConfig,
) -> str:
    """Make a sample of a vote, or say why not."""
    if answer.abstained:
        return "declined to answer"
    question = mask_personal_data(" ".join(answer.question.split()))
    cited = [documents[source] for source in dict.fromkeys(answer.sources) if source in documents]
    if not cited:
        return "no cited document is there any more"
    found = _best_passage(question, cited, cut, config)
    if found is None:
        return "no cited passage covers the question"
    used = Provenance(made_by="feedback", model=answer.model, prompt_hash=answer.prompt_hash)
    if vote.rating == "up":
        own = Provenance(made_by="feedback")  # no model wrote a part of it
        made.instruct.append(
            InstructSample(
                instruction=question, answer=found.text, origin=describe_origin(found), provenance=own
            )
        )
        return "instruct sample"
    rejected = mask_personal_data(strip_citations(answer.answer).strip())
    if len(rejected) < MIN_ANSWER:
        return "too short an answer"
    if has_common_ngram(rejected, found.text, config.max_ngram_overlap + 1):
        return "quotes the author"
    span = _like_in_length(found, question, len(rejected))
    chosen = found.document.text[span.start : span.end]
    longer, shorter = max(len(chosen), len(rejected)), min(len(chosen), len(rejected))
    if longer > shorter * config.max_length_ratio:
        return "another length than any passage"
    made.preference.append(
        PreferenceSample(
            prompt=question,
            chosen=chosen,
            rejected=rejected,
            origin=describe_origin(found, span),
            provenance=used,
        )
    )
    return "preference sample"


def _best_passage(
    question: str, documents: Sequence[CleanDocument], cut: PassageConfig, config: FeedbackConfig
) -> Passage | None:
    asked = content_words(question)
    best: tuple[float, Passage] | None = None
    for passage in _readable(documents, cut):
        above = "\n".join((passage.document.title, *passage.headings, passage.text))
        covered = len(asked & content_words(above)) / len(asked) if asked else 0.0
        if best is None or covered > best[0]:
            best = covered, passage
    return best[1] if best is not None and best[0] >= config.min_covered else None


def _readable(documents: Sequence[CleanDocument], cut: PassageConfig) -> Iterator[Passage]:
    for document in documents:
        if cut.reads(document):
            yield from split_passages(document, cut)


def _like_in_length(passage: Passage, question: str, length: int) -> Span:
    """Whole sentences in a row, of about so many characters, that cover most of the question; the first such."""
    sentences = split_units(passage.text)
    asked = content_words(question)
    best: tuple[int, int, int] | None = None
    for first, begin in enumerate(sentences):
        last = first
        while last + 1 < len(sentences) and _nearer(begin.start, sentences, last, length):
            last += 1
        end = sentences[last].end
        covered = len(asked & content_words(passage.text[begin.start : end]))
        near_enough = end - begin.start >= 0.7 * length
        if (best is None or covered > best[0]) and (near_enough or best is None):
            best = covered, begin.start, end
    if best is None:
        return passage.span
    return Span(start=passage.start + best[1], end=passage.start + best[2])


def _nearer(start: int, sentences: Sequence[Unit], last: int, length: int) -> bool:
    """Whether one more sentence brings the characters from ``start`` nearer to ``length``."""
    now = sentences[last].end - start
    then = sentences[last + 1].end - start
    return abs(then - length) <= abs(now - length)
