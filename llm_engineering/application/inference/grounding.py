"""Hold an answer's sentences against the sources: which words of which source support them, and how well.

Words are compared first, which costs next to nothing. Where they do not decide, the sentence and the few most similar
candidates are embedded. Mismatched numbers, names or negation can only lower a verdict.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import log

from pydantic import Field

from llm_engineering.application.inference.claims import (
    Claim,
    agrees_on_negation,
    downgrade,
    extract_claim,
    find_numbers,
)
from llm_engineering.application.inference.embedding import InMemoryEmbeddingCache
from llm_engineering.application.ports import Vectors
from llm_engineering.application.text.sentences import Unit, split_units
from llm_engineering.application.text.words import char_ngrams, content_stems
from llm_engineering.domain.documents import Model, Span
from llm_engineering.domain.retrieval import Citation, Passage, Verdict

LONGEST = 400
"""Characters of a long sentence."""

# Orders to whoever reads the source with a machine. What they say, and what they want said, is evidence of nothing.
_ORDER = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,40}\b(?:instruction|prompt|rule|above|previous|prior|earlier|"
    r"everything)|\byour system prompt\b|\byou (?:are now an?|must now|will now|should now)\b|\bnew instructions?\b|"
    r"\b(?:dear|attention|hey|note to)\b.{0,20}\b(?:ai|assistant|chatbot|language model|llm|gpt)\b|"
    r"^\W*(?:system|assistant|instructions?|ai)\s*:|(?:^\W*|[.:;,!]\s+|\b(?:and|then|please|must|now|always|just|only|to)\s+)(?:say|reply|respond|answer|output|print|write|repeat|tell)\b.{0,30}"
    r"\b(?:exactly|only|verbatim|the following|the user|this text|every question|all questions)\b|"
    r"\b(?:ignorier|vergiss|missachte)\w*\b.{0,40}\b(?:anweisung|regel|vorgabe|bisherig|vorherig|obig)|"
    r"(?:^\W*|[.:;,!]\s+|\b(?:und|dann|bitte|nun|immer)\s+)(?:antworte|sage|schreibe|gib)\b.{0,30}\b(?:genau|nur|ausschließlich|wörtlich)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A unit of a source, prepared for comparing."""

    unit: Unit
    roots: frozenset[str]
    order: bool
    """It tells the reader's machine what to do, or stands right behind such a sentence."""

    @property
    def grams(self) -> frozenset[str]:
        """Runs of letters within its words; made when first asked for, since words mostly decide."""
        return char_ngrams(self.roots)


@lru_cache(maxsize=512)
def split_statements(text: str) -> tuple[Statement, ...]:
    """Return the statements of a passage, in order. Kept for the passages used last, which questions share."""
    found: list[Statement] = []
    tainted = False
    for unit in split_units(text):
        said = text[unit.start : unit.end]
        order = _ORDER.search(said) is not None
        roots = content_stems(said)
        found.append(Statement(unit, roots, order or tainted))
        tainted = order
    return tuple(found)


_GRAMS_WEIGH = 0.3
"""What parts of words in common count beside whole words in common."""


class GroundingConfig(Model):
    """When a sentence counts as backed. Measured by ``./poe benchmark answering`` on pairs of claims and sources."""

    supported: float = Field(default=0.8, ge=0, le=1)
    """Share of a sentence's content words that the backing text must hold, where words alone decide."""
    partial: float = Field(default=0.45, ge=0, le=1)
    """The same, to count as backed in part."""
    similar: float = Field(default=0.72, ge=0, le=1)
    """Cosine similarity at which a paraphrase counts as supported, if some of its words stand in the source too."""
    similar_words: float = Field(default=0.25, ge=0, le=1)
    """The share of words that such a paraphrase needs."""
    related: float = Field(default=0.6, ge=0, le=1)
    """Cosine similarity at which a sentence counts as backed in part, whatever its words."""
    unlike: float = Field(default=0.4, ge=-1, le=1)
    """Below this similarity, shared words are chance: the verdict is lowered."""
    candidates: int = Field(default=4, ge=0, le=20)
    """Source sentences that one sentence is compared with by embedding; 0: words alone decide."""
    max_embedded: int = Field(default=32, ge=0)
    """Texts embedded for one answer, at most, so that a long answer cannot take the processor from all others."""


@lru_cache(maxsize=512)
def _numbers_in(text: str) -> frozenset[str]:
    return find_numbers(text)


@dataclass(frozen=True, slots=True)
class Attribution:
    """The best that the sources hold for a sentence."""

    verdict: Verdict
    source: int | None = None
    source_span: Span | None = None
    """In that source's ``passage.text``."""
    document_span: Span | None = None
    lexical: float = 0.0
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class _Candidate:
    citation: Citation
    span: Span
    lexical: float
    """Share of the claim's content words that stand in the span."""
    known: float
    """The same, with the passage's title and headings counted too: they often name what a sentence is about."""
    rank: float
    whole: bool = True

    @property
    def text(self) -> str:
        return self.citation.passage.text[self.span.start : self.span.end]


@dataclass(frozen=True, slots=True)
class LexicalResult:
    """A sentence with its candidates, best first, before anything was embedded."""

    claim: Claim
    candidates: tuple[_Candidate, ...] = ()
    by_words: Attribution = field(default_factory=lambda: Attribution(Verdict.UNSUPPORTED))
    decided: bool = True
    """Embedding would not change the verdict, or is not to be had."""


class GroundingVerifier:
    """The sources of one answer, to hold its sentences against.

    Args:
        embed: texts to unit vectors, shape (n, dimension); None: words alone decide.
    """

    def __init__(
        self,
        sources: Sequence[Citation],
        embed: Callable[[Sequence[str]], Vectors] | None = None,
        config: GroundingConfig | None = None,
    ) -> None:
        self._config = config or GroundingConfig()
        self._memory = (
            embed
            if isinstance(embed, InMemoryEmbeddingCache) or embed is None
            else InMemoryEmbeddingCache(embed)
        )
        self._statements = [
            (source, item) for source in sources for item in split_statements(source.passage.text)
        ]
        self._context = {source.number: content_stems(_heading(source.passage)) for source in sources}
        counts = Counter(root for _, item in self._statements for root in item.roots)
        total = len(self._statements)
        self._weights = {root: log(1 + total / count) for root, count in counts.items()}
        self._unknown_weight = log(1 + 2 * max(total, 1))
        self._embedded = 0

    # --- verdicts -----------------------------------------------------------------------------------------------

    def judge(self, sentence: str, only: int | None = None) -> Attribution:
        """Return the verdict on a sentence. Blocking where it embeds; see :meth:`verify_lexical` and
        :meth:`verify_semantic`."""
        draft = self.verify_lexical(sentence, only)
        return draft.by_words if draft.decided else self.verify_semantic(draft)

    def verify_lexical(self, sentence: str, only: int | None = None) -> LexicalResult:
        """Return what words say about a sentence. Citation markers must be gone. ``only``: one source's number."""
        claim = extract_claim(sentence)
        if not claim.roots:
            return LexicalResult(claim)
        config = self._config
        candidates = self._candidates(claim, only)
        if not candidates:
            return LexicalResult(claim)
        by_words = max((self._attribute(claim, candidate, None) for candidate in candidates), key=_strength)
        afford = self._memory is not None and config.candidates > 0 and self._embedded < config.max_embedded
        # What copies a source needs no second opinion; a number that is nowhere cannot be made good by likeness.
        clear = by_words.verdict is Verdict.SUPPORTED or bool(
            by_words.verdict is Verdict.PARTIAL
            and claim.numbers
            and all(claim.numbers - _numbers_in(passage_text(c.citation.passage)) for c in candidates)
        )
        return LexicalResult(claim, candidates[: config.candidates], by_words, decided=clear or not afford)

    def verify_semantic(self, draft: LexicalResult) -> Attribution:
        """Return the verdict with similarities. Blocking.

        Raises:
            ModelError: the embedder failed.
        """
        if self._memory is None or not draft.candidates:
            return draft.by_words
        texts = [draft.claim.text, *(candidate.text for candidate in draft.candidates)]
        self._embedded += self._memory.count_missing(texts)
        vectors = self._memory(texts)
        similarities = vectors[1:] @ vectors[0]
        judged = [
            self._attribute(draft.claim, candidate, float(similarity))
            for candidate, similarity in zip(draft.candidates, similarities, strict=True)
        ]
        return max(judged, key=_strength)

    def _attribute(self, claim: Claim, candidate: _Candidate, similarity: float | None) -> Attribution:
        passage = candidate.citation.passage
        verdict = self._by_measure(candidate, similarity)
        # Most sentences hold no number and no name: looking for them in whole passages is what costs here.
        if claim.numbers and claim.numbers - _numbers_in(passage_text(passage)):
            verdict = downgrade(verdict)
        elif claim.numbers and claim.numbers - find_numbers(
            _around(passage.text, candidate.span) + _heading(passage)
        ):
            verdict = min(verdict, Verdict.PARTIAL, key=_ORDERED.index)
        if claim.names and claim.names - self._roots_of(passage):
            verdict = downgrade(verdict)
        if (
            claim.subject
            and (similarity or 0) < self._config.similar
            and claim.subject not in self._roots_of(passage)
        ):
            # Words decided, and what the sentence is about is none of them.
            verdict = min(verdict, Verdict.PARTIAL, key=_ORDERED.index)
        if not agrees_on_negation(claim, candidate.text):
            verdict = downgrade(verdict)
        if (
            verdict is Verdict.UNSUPPORTED
            and candidate.lexical == 0
            and (similarity or 0) < self._config.unlike
        ):
            return Attribution(verdict, similarity=similarity)
        start = passage.span.start + candidate.span.start
        whole = len(passage.text) == passage.span.end - passage.span.start
        document = Span(start=start, end=start + candidate.span.end - candidate.span.start) if whole else None
        return Attribution(
            verdict, candidate.citation.number, candidate.span, document, candidate.lexical, similarity
        )

    def _roots_of(self, passage: Passage) -> frozenset[str]:
        """Roots of all that a passage and its headings say, from its statements, which have them already."""
        said = (item.roots for item in split_statements(passage.text))
        return content_stems(_heading(passage)).union(*said)

    def _by_measure(self, candidate: _Candidate, similarity: float | None) -> Verdict:
        config = self._config
        if similarity is not None:
            if similarity >= config.similar and candidate.known >= config.similar_words:
                return Verdict.SUPPORTED
            if candidate.known >= config.supported and similarity >= config.unlike:
                return Verdict.SUPPORTED
            if similarity >= config.related or (
                candidate.known >= config.partial and similarity >= config.unlike
            ):
                return Verdict.PARTIAL
            return Verdict.UNSUPPORTED
        if candidate.known >= config.supported:
            return Verdict.SUPPORTED
        return Verdict.PARTIAL if candidate.known >= config.partial else Verdict.UNSUPPORTED

    def _candidates(self, claim: Claim, only: int | None) -> tuple[_Candidate, ...]:
        most = max(self._config.candidates, 1)
        pool = [i for i, (source, item) in enumerate(self._statements)
                if not item.order and (only is None or source.number == only)]  # fmt: skip
        whole = self._weight(claim.roots)
        overlap = {i: self._overlap(claim.roots, self._statements[i][1].roots, whole) for i in pool}
        if max(overlap.values(), default=0.0) < 0.5:
            # Little in common: parts of words may show what the words themselves do not.
            wanted = char_ngrams(claim.roots)
            for i in pool:
                overlap[i] += _GRAMS_WEIGH * _share(wanted, self._statements[i][1].grams)
        ranked = sorted(pool, key=lambda i: (-overlap[i], i))[:most]
        return tuple(self._widened(claim, i, overlap[i]) for i in ranked)

    def _widened(self, claim: Claim, i: int, rank: float) -> _Candidate:
        """The statement, or it with a neighbour where the sentence draws on both."""
        source, item = self._statements[i]
        best = self._candidate(claim, source, item.unit.start, item.unit.end, item.roots, rank)
        if best.lexical >= 0.95:
            return best
        for j in (i - 1, i + 1):
            if not 0 <= j < len(self._statements):
                continue
            neighbour, other = self._statements[j]
            if neighbour is not source or other.order:
                continue
            start, end = min(item.unit.start, other.unit.start), max(item.unit.end, other.unit.end)
            both = self._candidate(claim, source, start, end, item.roots | other.roots, rank)
            if both.lexical >= best.lexical + 0.2 and end - start <= 2 * LONGEST:
                best = both
        return best

    def _candidate(
        self, claim: Claim, source: Citation, start: int, end: int, roots: frozenset[str], rank: float
    ) -> _Candidate:
        lexical = _share(claim.roots, roots)
        known = _share(claim.roots, roots | self._context[source.number])
        # A title can add to what stands in the sentence, not stand in for it.
        return _Candidate(source, Span(start=start, end=end), lexical, min(known, lexical + 0.25), rank)

    def _overlap(self, wanted: frozenset[str], there: frozenset[str], whole: float) -> float:
        """Share of the wanted words that are there, rare ones weighing more. ``whole``: the weight of all that are wanted."""
        return sum(self._weights[word] for word in wanted & there) / whole if whole else 0.0

    def _weight(self, wanted: frozenset[str]) -> float:
        return sum(self._weights.get(word, self._unknown_weight) for word in wanted)


_ORDERED = [Verdict.UNSUPPORTED, Verdict.PARTIAL, Verdict.SUPPORTED]


def _strength(backing: Attribution) -> tuple[int, float]:
    return _ORDERED.index(backing.verdict), backing.lexical + (backing.similarity or 0.0)


def passage_text(passage: Passage) -> str:
    """Return headings and text, as far as words of an answer may come from them."""
    return f"{_heading(passage)}\n{passage.text}"


def _share(wanted: frozenset[str], there: frozenset[str]) -> float:
    return len(wanted & there) / len(wanted) if wanted else 0.0


def _heading(passage: Passage) -> str:
    return " ".join((passage.title, *passage.headings))


def _around(text: str, span: Span) -> str:
    """The span with about a sentence on either side, where a number may stand that the sentence refers to."""
    return text[max(0, span.start - LONGEST) : span.end + LONGEST]


def word_confidence(question: str, passages: Sequence[Passage]) -> float:
    """Return the largest share of the question's content words that one passage, its title included, holds; 0 to 1."""
    wanted = content_stems(question)
    return max((_share(wanted, content_stems(passage_text(p))) for p in passages), default=0.0)
