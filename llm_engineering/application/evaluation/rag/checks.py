"""What a made question must keep to; the same for questions of rules and of a model."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llm_engineering.application.text.markdown import Kind, markdown_blocks
from llm_engineering.application.text.overlap import content_words, copied_share, longest_copy
from llm_engineering.application.text.question_rules import language_of
from llm_engineering.domain.documents import CleanDocument, Span

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


def refused(candidate: Candidate, *, max_copied_share: float, max_copied_run: int) -> str | None:
    """Why a candidate does not do, in one word or two; None: it does.

    Grounded: the answer's words stand in the passage. No copy: neither too large a share of its words nor too long a
    run of them comes from the passage. In one language with it. Not given away: the question does not hold its answer.
    """
    asked = content_words(candidate.question)
    if not asked:
        return "no content"
    if copied_share(candidate.answer, candidate.passage) < 1.0:
        return "not grounded"
    if language_of(candidate.quote) not in (None, candidate.language):
        return "language"
    if longest_copy(candidate.question, candidate.passage) > max_copied_run:
        return "copied run"
    if len(asked) > SHORT_QUESTION and copied_share(candidate.question, candidate.passage) > max_copied_share:
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
