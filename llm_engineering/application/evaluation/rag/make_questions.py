"""Makes a question set from the corpus: known-item questions, each with the place that answers it.

By rule, which needs no model; with a language model's help where one is asked for, under the same checks. Seeded: the
same corpus and seed give the same set, and a document that is added moves few of the others.
"""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from loguru import logger
from pydantic import Field

from llm_engineering.application.evaluation.rag.questions import Question, Relevant, question_id
from llm_engineering.application.ports import (
    CleanStore,
    GenerationOptions,
    LanguageModel,
    Message,
    Progress,
    SilentProgress,
)
from llm_engineering.application.text.markdown import Kind, markdown_blocks
from llm_engineering.application.text.overlap import content_words, find_quote, longest_copy, measure_copying
from llm_engineering.application.text.question_rules import Draft, draft_questions, language_of
from llm_engineering.domain.documents import CleanDocument, Model, Span
from llm_engineering.domain.errors import ModelServiceError

SHORT_QUESTION = 2
"""Content words up to which a question may consist of the passage's words: "What is overlap?" has no others."""
SAME_ANSWER = 0.8
"""A passage elsewhere that holds all of a question's words and this share of its answer's answers it as well."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question with the place that answers it."""

    question: str
    kind: str
    answer: str
    document_id: str
    link: str
    span: Span
    """Of the answering words."""
    block: Span
    """Of the paragraph around them."""
    passage: str
    """Title, headings and paragraph: what a search can match."""
    quote: str
    language: str
    source: str


def find_fault(candidate: Candidate, *, max_copied_share: float, max_copied_run: int) -> str | None:
    """Return why a candidate does not do, in one word or two; None: it does.

    Grounded: the answer's words stand in the passage. No copy: neither too large a share of its words nor too long a
    run of them comes from the passage. In one language with it. Not given away: the question does not hold its answer.
    """
    asked = content_words(candidate.question)
    if not asked:
        return "no content"
    if measure_copying(candidate.answer, candidate.passage) < 1.0:
        return "not grounded"
    if language_of(candidate.quote) not in (None, candidate.language):
        return "language"
    if longest_copy(candidate.question, candidate.passage) > max_copied_run:
        return "copied run"
    if (
        len(asked) > SHORT_QUESTION
        and measure_copying(candidate.question, candidate.passage) > max_copied_share
    ):
        return "copied words"
    if len(content_words(candidate.answer) - asked) < 1:
        return "gives itself away"
    return None


class Uniqueness:
    """Finds questions that other passages answer as well, in one pass over the corpus.

    A candidate is looked at only in passages that hold the rarest of its words (counted over all candidates, which is
    enough to keep the lists short).
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        counts = Counter(word for item in candidates for word in content_words(item.question))
        self._asked = [content_words(item.question) for item in candidates]
        self._answers = [content_words(item.answer) for item in candidates]
        self._candidates = candidates
        self._by_word: defaultdict[str, list[int]] = defaultdict(list)
        for number, words in enumerate(self._asked):
            if words:
                self._by_word[min(words, key=lambda word: (counts[word], word))].append(number)
        self.ambiguous: set[int] = set()
        """Positions of candidates that are answered elsewhere too."""

    def see(self, document: CleanDocument) -> None:
        """Hold the paragraphs of a document against the candidates."""
        for block in markdown_blocks(document.text):
            if block.kind is Kind.HEADING:
                continue
            text = document.text[block.start : block.end]
            words = content_words(f"{document.title} {' '.join(block.path)} {text}")
            for number in self._maybe(words):
                if self._elsewhere(number, document.id, block.start, block.end) and self._says(number, words):
                    self.ambiguous.add(number)

    def _maybe(self, words: Iterable[str]) -> Iterable[int]:
        for word in words:
            yield from self._by_word.get(word, ())

    def _elsewhere(self, number: int, document_id: str, start: int, end: int) -> bool:
        own = self._candidates[number]
        return own.document_id != document_id or end <= own.block.start or start >= own.block.end

    def _says(self, number: int, words: frozenset[str]) -> bool:
        answer = self._answers[number]
        return self._asked[number] <= words and len(answer & words) >= SAME_ANSWER * len(answer)


MIN_PASSAGE = 300
"""Characters of a paragraph that a model is asked to question."""
_SILENT = SilentProgress()

ASK = """Below is a passage. Write one question that the passage answers, as somebody would ask who has not read it: in other \
words than the passage's, in its language, without "the passage" or "the text". Copy the sentence that answers it \
letter by letter.
Reply as JSON: {{"question": "…", "quote": "…"}}

Passage from "{title}":
<passage>
{passage}
</passage>"""

_SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "quote": {"type": "string"}},
    "required": ["question", "quote"],
    "additionalProperties": False,
}


class QuestionMaking(Model):
    """How a question set is made."""

    questions: int = Field(default=200, ge=1)
    """At most so many, spread over the documents."""
    per_document: int = Field(default=3, ge=1)
    documents: int = Field(default=1_000, ge=1)
    """At most so many are asked about, drawn by seed."""
    max_copied_share: float = Field(default=0.8, ge=0, le=1)
    """Share of a question's content words that may stand in the passage; above, finding it is matching strings."""
    max_copied_run: int = Field(default=5, ge=1)
    """Words in a row that may be the passage's own."""
    with_model: bool = False
    """Ask the language model for questions too."""


@dataclass(frozen=True, slots=True)
class Made:
    """A question set and what became of all candidates."""

    questions: tuple[Question, ...]
    documents: int
    """Documents that were read."""
    refused: dict[str, int]
    """Candidates that were left out, by reason."""


async def make_questions(
    store: CleanStore,
    config: QuestionMaking,
    *,
    seed: int = 0,
    model: LanguageModel | None = None,
    progress: Progress = _SILENT,
) -> Made:
    """Make questions from the clean documents.

    Raises:
        StoreError: the store cannot be read.
    """
    counts: Counter[str] = Counter()
    sampled, total = _sampled(store, config.documents, seed)
    candidates: list[Candidate] = []
    for document in sampled:
        found = [_candidate(document, draft) for draft in draft_questions(document)]
        if config.with_model and model is not None:
            found += await _asked(document, model, config.per_document, seed, counts)
        candidates += _passing(found, config, seed, counts)
        progress.advance("Make questions", total=len(sampled))
    kept = _unique(candidates, store, counts)
    questions = _spread(kept, config, seed)
    logger.info(
        "Made {} questions from {} of {} documents; left out: {}.",
        len(questions),
        len(sampled),
        total,
        dict(counts),
    )
    return Made(tuple(questions), len(sampled), dict(sorted(counts.items())))


def _sampled(store: CleanStore, most: int, seed: int) -> tuple[list[CleanDocument], int]:
    """Documents with the smallest seeded hashes: as good as drawn, and in need of no list of all. Copies of another are left."""
    heap: list[tuple[int, str]] = []
    total = 0
    for document in store.stream():
        total += 1
        if document.duplicate_group not in (None, document.id):
            continue
        item = (-_drawn(document.id, seed), document.id)
        if len(heap) < most:
            heapq.heappush(heap, item)
        else:
            heapq.heappushpop(heap, item)
    ids = sorted(identifier for _, identifier in heap)
    return [
        document for start in range(0, len(ids), 256) for document in store.get(ids[start : start + 256])
    ], total


def _drawn(key: str, seed: int) -> int:
    return int.from_bytes(blake2b(f"{seed}/{key}".encode(), digest_size=8).digest(), "big")


def _candidate(document: CleanDocument, draft: Draft) -> Candidate:
    block = document.text[draft.block.start : draft.block.end]
    return Candidate(
        question=draft.question,
        kind=draft.kind,
        answer=draft.answer,
        document_id=document.id,
        link=document.link,
        span=draft.span,
        block=draft.block,
        passage="\n".join((document.title, *draft.headings, block)),
        quote=document.text[draft.span.start : draft.span.end],
        language=draft.language,
        source="rule",
    )


def _passing(
    found: Sequence[Candidate], config: QuestionMaking, seed: int, counts: Counter[str]
) -> Iterator[Candidate]:
    """The candidates of one document that pass the checks: at most twice as many as are wanted, one a sentence."""
    kept = 0
    sentences: set[int] = set()
    for candidate in sorted(found, key=lambda item: (item.source != "model", _drawn(item.question, seed))):
        if kept >= 2 * config.per_document:
            break
        if candidate.span.start in sentences:
            continue
        reason = find_fault(
            candidate, max_copied_share=config.max_copied_share, max_copied_run=config.max_copied_run
        )
        if reason:
            counts[reason] += 1
            continue
        sentences.add(candidate.span.start)
        kept += 1
        yield candidate


def _unique(candidates: Sequence[Candidate], store: CleanStore, counts: Counter[str]) -> list[Candidate]:
    asked = Counter(candidate.question.casefold() for candidate in candidates)
    uniqueness = Uniqueness(candidates)
    for document in store.stream():
        uniqueness.see(document)
    kept = []
    for number, candidate in enumerate(candidates):
        if number in uniqueness.ambiguous or asked[candidate.question.casefold()] > 1:
            counts["not unique"] += 1
        else:
            kept.append(candidate)
    return kept


def _spread(candidates: Sequence[Candidate], config: QuestionMaking, seed: int) -> list[Question]:
    """Round after round one question a document, so that no document weighs more than it must."""
    by_document: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_document.setdefault(candidate.document_id, []).append(candidate)
    order = sorted(by_document, key=lambda identifier: _drawn(identifier, seed))
    rounds = (
        by_document[key][turn]
        for turn in range(config.per_document)
        for key in order
        if turn < len(by_document[key])
    )
    chosen = [candidate for candidate, _ in zip(rounds, range(config.questions), strict=False)]
    return [
        _question(candidate) for candidate in sorted(chosen, key=lambda item: (item.link, item.span.start))
    ]


def _question(candidate: Candidate) -> Question:
    place = Relevant(
        document_id=candidate.document_id,
        quote=candidate.quote,
        start=candidate.span.start,
        end=candidate.span.end,
    )
    return Question(
        id=question_id(candidate.question, candidate.source),
        question=candidate.question,
        relevant=(place,),
        kind=candidate.kind,
        source="model" if candidate.source == "model" else "rule",
        language=candidate.language,
    )


# --- with a language model --------------------------------------------------------------------------------------------


async def _asked(
    document: CleanDocument, model: LanguageModel, most: int, seed: int, counts: Counter[str]
) -> list[Candidate]:
    """Questions of the model on paragraphs drawn by seed. What it gets wrong is counted; the run goes on."""
    blocks = [
        block
        for block in markdown_blocks(document.text)
        if block.kind is Kind.TEXT and block.end - block.start >= MIN_PASSAGE
    ]
    blocks.sort(key=lambda block: _drawn(f"{document.id}/{block.start}", seed))
    found: list[Candidate] = []
    for block in blocks[:most]:
        text = document.text[block.start : block.end]
        try:
            reply = await _reply(model, ASK.format(title=document.title, passage=text), seed)
            question, quote = str(reply["question"]).strip(), str(reply["quote"]).strip()
        except (ModelServiceError, ValueError, KeyError, TypeError) as error:
            logger.debug("The model made no question of {}: {}", document.link, error)
            counts["model reply unusable"] += 1
            continue
        place = find_quote(text, quote) if quote else None
        if place is None or not question:
            counts["not grounded"] += 1
            continue
        span = Span(start=block.start + place.start, end=block.start + place.end)
        found.append(
            Candidate(
                question=question,
                kind="model",
                answer=quote,
                document_id=document.id,
                link=document.link,
                span=span,
                block=Span(start=block.start, end=block.end),
                passage="\n".join((document.title, *block.path, text)),
                quote=document.text[span.start : span.end],
                language=language_of(question) or "und",
                source="model",
            )
        )
    return found


async def _reply(model: LanguageModel, prompt: str, seed: int) -> dict[str, object]:
    options = GenerationOptions(max_tokens=256, temperature=0.0, seed=seed, json_schema=_SCHEMA)
    text = "".join([delta.text async for delta in model.stream([Message("user", prompt)], options)])
    reply = json.loads(text)
    if not isinstance(reply, dict):
        raise ValueError(f"expected a JSON object, got {type(reply).__name__}")
    return reply
