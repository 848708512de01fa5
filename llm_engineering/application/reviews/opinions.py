"""What single reviews say: opinions in their own words, kept by the content of the review: a new one costs itself alone.

They are kept as results of an analysis (``./poe list-analyses --task review_opinions``), under ids that are derived from the
review, the prompt and the model; what is left of a review that is gone, or of another prompt, is removed.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from llm_engineering.application.analysis.explain import list_sentences
from llm_engineering.application.analysis.schema import ShownText, locate_quotes
from llm_engineering.application.failures import group_batches
from llm_engineering.application.llm.batch import BatchClient, LlmRequest, NoAnswerError, run_in_order
from llm_engineering.application.llm.budget import BudgetExhaustedError
from llm_engineering.application.llm.prompts import present_source, prompt_hash, render
from llm_engineering.application.llm.structured_output import UnusableReplyError, parse_json_object
from llm_engineering.application.ports import AnalysisStore, CleanStore, GenerationOptions
from llm_engineering.application.reviews.aspects import AspectFinder
from llm_engineering.application.reviews.polarity import EXAMPLES, PolarityScorer, name_polarity
from llm_engineering.application.reviews.sampling import ReviewCard
from llm_engineering.domain.analyses import Analysis, Evidence, Finding
from llm_engineering.domain.documents import CleanDocument, Span, derive_id, text_hash
from llm_engineering.domain.reviews import Opinion, Polarity

TASK = "review_opinions"
PROMPT = ("review_opinions", 1)
PER_CALL = 10
_TOKENS_PER_REVIEW = 120
_BATCH = 256
_LONGEST = 300
"""Characters of an opinion; a longer sentence is no quote."""
# "good sound, but the battery is dead" says two things.
_TURN = re.compile(
    r"[,;–—]\s+(?=(?:but|yet|although|though|however|aber|jedoch|allerdings|mais|pero|aunque|ma|però|maar|echter)\b)",
    re.IGNORECASE,
)
_FEWEST_LETTERS = 4
STARS = 0.25
"""Added to the score of a sentence about a named thing in a review with five stars; taken from one in a review with one."""
NAMED = 8.0
"""Times the score of a sentence about a thing that the settings name: it need not praise loudly."""


@dataclass(frozen=True, slots=True)
class OpinionReader:
    """Who finds opinions.

    Args:
        client: of the language model; None: sentences are scored.
        make_scorer: what scores sentences, made when the first is to be scored.
        max_characters: of a review, that a model is shown.
    """

    client: BatchClient | None
    make_scorer: Callable[[], PolarityScorer]
    embedder: str
    max_characters: int
    aspects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What the settings name: a sentence about it is an opinion from a lower score on."""

    @property
    def model(self) -> str:
        """Whom opinions are from."""
        if self.client is not None:
            return self.client.model.name
        decisive = EXAMPLES.read_text(encoding="utf-8") + repr(sorted(self.aspects.items()))
        return f"sentences:{self.embedder}:{text_hash(decisive)[:8]}"

    @property
    def prompt_hash(self) -> str:
        """Of the prompt; empty where no model is asked."""
        return prompt_hash(*PROMPT) if self.client is not None else ""

    def derive_id(self, card: ReviewCard) -> str:
        """Return the id under which the opinions of a review are kept."""
        return derive_id("opinions", card.id, card.hash, self.prompt_hash, self.model)

    async def read(self, documents: Sequence[CleanDocument]) -> dict[str, list[Opinion]]:
        """Return the opinions of reviews, by their ids; those of which the model gave no usable reply are missing."""
        if self.client is None:
            return self.score_sentences(documents)
        found: dict[str, list[Opinion]] = {}
        batches = group_batches(documents, PER_CALL)
        async for read in run_in_order(batches, self._ask, 64):
            found |= read
        return found

    def score_sentences(self, documents: Sequence[CleanDocument]) -> dict[str, list[Opinion]]:
        """Return the sentences that praise or complain."""
        places = [(document, span) for document in documents for span in split_clauses(document.text)]
        texts = [document.text[span.start : span.end] for document, span in places]
        found: dict[str, list[Opinion]] = {document.id: [] for document in documents}
        finder = AspectFinder(self.aspects)
        scores = self.make_scorer().score(texts)
        for (document, span), quote, score in zip(places, texts, scores, strict=True):
            polarity = name_polarity(_read_score(float(score), document, bool(finder.find(quote))))
            if polarity is not Polarity.NEUTRAL:
                found[document.id].append(
                    Opinion(document_id=document.id, span=span, quote=quote, polarity=polarity)
                )
        return found

    async def _ask(self, documents: Sequence[CleanDocument]) -> dict[str, list[Opinion]]:
        assert self.client is not None
        shown = [ShownText(one.id, one.text[: self.max_characters]) for one in documents]
        messages = render(
            *PROMPT,
            reviews=[present_source(number, "", one.text) for number, one in enumerate(shown, start=1)],
        )
        options = GenerationOptions(
            max_tokens=_TOKENS_PER_REVIEW * len(shown) + 64, json_schema=_make_schema(len(shown))
        )
        request = LlmRequest(
            name=f"{TASK}:{shown[0].document_id}",
            messages=tuple(messages),
            options=options,
            prompt_hash=self.prompt_hash,
            read=lambda text: read_opinions(text, shown),
        )
        try:
            return await self.client.answer(request)
        except (BudgetExhaustedError, NoAnswerError):
            return {}


def _read_score(score: float, document: CleanDocument, about_named: bool) -> float:
    """The score of a sentence. One about a named thing says something of it, and the stars lean on what; any other may be
    background, whatever the stars."""
    if not about_named:
        return score
    stars = document.metadata.get("rating")
    if isinstance(stars, int | float) and not isinstance(stars, bool):
        score += STARS * (min(5.0, max(1.0, stars)) - 3.0) / 2.0
    return score * NAMED


def split_clauses(text: str) -> Iterator[Span]:
    """Yield the places of what a review says: its sentences, cut where they turn ("…, but …")."""
    for sentence in list_sentences(text):
        start = sentence.start
        ends = [match.end() for match in _TURN.finditer(text, sentence.start, sentence.end)]
        for end in (*ends, sentence.end):
            clause = text[start:end].rstrip(" ,;–—")
            letters = sum(character.isalpha() for character in clause)
            if letters >= _FEWEST_LETTERS and len(clause) <= _LONGEST:
                yield Span(start=start, end=start + len(clause))
            start = end


def _make_schema(count: int) -> dict[str, Any]:
    opinion = {
        "type": "object",
        "properties": {
            "aspect": {"type": "string", "minLength": 1, "maxLength": 40},
            "polarity": {"type": "string", "enum": ["positive", "negative"]},
            "quote": {"type": "string", "minLength": 1, "maxLength": _LONGEST},
        },
        "required": ["aspect", "polarity", "quote"],
        "additionalProperties": False,
    }
    entry = {
        "type": "object",
        "properties": {
            "number": {"type": "integer", "minimum": 1, "maximum": count},
            "opinions": {"type": "array", "items": opinion, "maxItems": 8},
        },
        "required": ["number", "opinions"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"reviews": {"type": "array", "items": entry, "minItems": count, "maxItems": count}},
        "required": ["reviews"],
        "additionalProperties": False,
    }


def read_opinions(reply: str, shown: Sequence[ShownText]) -> dict[str, list[Opinion]]:
    """Return what a reply says of each review; what it quotes wrongly is left out.

    Raises:
        UnusableReplyError: it is no JSON object of the expected shape, or names no review.
    """
    entries = parse_json_object(reply).get("reviews")
    if not isinstance(entries, list):
        raise UnusableReplyError("expected a list: reviews")
    found: dict[str, list[Opinion]] = {}
    for entry in entries:
        number = entry.get("number") if isinstance(entry, dict) else None
        if not isinstance(number, int) or not 1 <= number <= len(shown):
            continue
        one = shown[number - 1]
        given = entry.get("opinions")
        found[one.document_id] = list(_read_entry(given if isinstance(given, list) else [], one))
    if not found:
        raise UnusableReplyError("no review of the request is named: reviews")
    return found


def _read_entry(given: Sequence[Any], shown: ShownText) -> Iterator[Opinion]:
    for item in given:
        if not isinstance(item, dict) or item.get("polarity") not in ("positive", "negative"):
            continue
        for place in locate_quotes([str(item.get("quote", ""))], [shown]):
            yield Opinion(
                document_id=shown.document_id,
                span=place.span,
                quote=place.quote,
                aspect=" ".join(str(item.get("aspect", "")).lower().split())[:40],
                polarity=Polarity(item["polarity"]),
            )


async def update_opinions(
    cards: Sequence[ReviewCard], reader: OpinionReader, clean: CleanStore, store: AnalysisStore
) -> tuple[int, int]:
    """Bring the kept opinions up to date with the reviews that count; return how many reviews were read, and how many results
    were removed."""
    wanted = {reader.derive_id(card): card for card in cards}
    known = {identifier for identifier, _ in store.list_versions(TASK)}
    missing = {card.id: identifier for identifier, card in wanted.items() if identifier not in known}
    for batch in group_batches(sorted(missing), _BATCH):
        read = await reader.read(clean.get(batch))
        results = [_keep(missing[key], key, opinions, reader) for key, opinions in read.items()]
        if results:
            store.upsert(results)
    stale = sorted(known - wanted.keys())
    return len(missing), store.delete(stale) if stale else 0


def _keep(identifier: str, key: str, opinions: Sequence[Opinion], reader: OpinionReader) -> Analysis:
    findings = tuple(
        Finding(
            field=str(one.polarity),
            value=one.aspect,
            evidence=(one.evidence,),
            made_by="head" if reader.client is None else "llm",
        )
        for one in opinions
    )
    return Analysis(
        id=identifier,
        task=TASK,
        spec=TASK,
        key=key,
        document_ids=(key,),
        input_hash=identifier,
        findings=findings,
        model=reader.model,
        prompt_hash=reader.prompt_hash,
        created_at=datetime.now(UTC),
    )


def load_opinions(ids: Mapping[str, str], store: AnalysisStore) -> dict[str, list[Opinion]]:
    """Return the kept opinions of reviews, by review.

    Args:
        ids: of the kept results, by review.
    """
    return {
        one.key: [_as_opinion(finding, finding.evidence[0]) for finding in one.findings if finding.evidence]
        for one in store.get(list(ids.values()))
    }


def _as_opinion(finding: Finding, place: Evidence) -> Opinion:
    return Opinion(
        document_id=place.document_id,
        span=place.span,
        quote=place.quote,
        aspect=str(finding.value),
        polarity=Polarity(finding.field),
    )
