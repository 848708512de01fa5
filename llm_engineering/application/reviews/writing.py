"""The text of a summary: counted quotes without a model, or a language model's sentences from counted points."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from llm_engineering.application.llm.batch import BatchClient, LlmRequest
from llm_engineering.application.llm.prompts import make_inert, present_source, prompt_hash, render
from llm_engineering.application.llm.structured_output import UnusableReplyError, parse_json_object
from llm_engineering.application.ports import GenerationOptions
from llm_engineering.application.reviews.checking import Claim
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.reviews import KeyPoint, Polarity, SummarySentence

PROMPT = ("review_summary", 1)
SHOWN_QUOTES = 3
"""Of a point: kept with a sentence, and shown to a model."""
_MAX_TOKENS = 500
_LONGEST_QUOTE = 140
_LANGUAGE_NAMES = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "nl": "Dutch",
}
_COUNTED = {
    "en": "{n} of {all} reviewers {verb}: “{quote}”",
    "de": "{n} von {all} {verb}: „{quote}“",
    "fr": "{n} sur {all} {verb} : « {quote} »",
    "es": "{n} de {all} {verb}: «{quote}»",
    "it": "{n} su {all} {verb}: «{quote}»",
    "nl": "{n} van de {all} {verb}: “{quote}”",
}
_VERBS = {
    "en": ("are pleased", "complain"),
    "de": ("loben", "bemängeln"),
    "fr": ("apprécient", "regrettent"),
    "es": ("elogian", "se quejan"),
    "it": ("apprezzano", "lamentano"),
    "nl": ("zijn tevreden", "klagen"),
}


def choose_points(points: Sequence[KeyPoint], negative_share: float, most: int) -> list[KeyPoint]:
    """Return the points that a text tells: as many complaints among them as among the reviews, and at least one of each side
    that has any."""
    praise = [one for one in points if one.polarity is Polarity.POSITIVE]
    complaints = [one for one in points if one.polarity is Polarity.NEGATIVE]
    total = min(most, len(points))
    bad = min(len(complaints), max(round(total * negative_share), 1 if complaints else 0))
    good = min(len(praise), max(total - bad, 1 if praise else 0))
    # A side that has too few points does not hand its places to the other: that would tilt the text.
    if bad and negative_share < 1:
        good = min(good, max(1, round(bad * (1 - negative_share) / max(negative_share, 0.01))))
    if good and negative_share > 0:
        bad = min(bad, max(1, round(good * negative_share / max(1 - negative_share, 0.01))))
    return [*praise[:good], *complaints[:bad]]


def quote_points(points: Sequence[KeyPoint], reviewers: int, language: str) -> list[SummarySentence]:
    """Return a sentence for each point: how many say so, and one of them in their own words."""
    return [_quote_point(point, reviewers, language) for point in points]


def _quote_point(point: KeyPoint, reviewers: int, language: str) -> SummarySentence:
    short = [one for one in point.evidence if len(one.quote) <= _LONGEST_QUOTE]
    chosen = (short or list(point.evidence))[0]
    section: Literal["pros", "cons"] = "pros" if point.polarity is Polarity.POSITIVE else "cons"
    spoken = language if language in _COUNTED else "en"
    verb = _VERBS[spoken][section == "cons"]
    if spoken == "en" and point.is_aspect:
        verb = f"{'praise' if section == 'pros' else 'complain about'} the {point.name}"
    text = _COUNTED[spoken].format(
        n=point.support, all=reviewers, verb=verb, quote=" ".join(chosen.quote.split()).strip("\"'“”„«»")
    )
    others = [one for one in point.evidence if one != chosen]
    return SummarySentence(
        text=text,
        section=section,
        key_points=(point.id,),
        evidence=(chosen, *others[: SHOWN_QUOTES - 1]),
    )


def get_prompt_hash() -> str:
    """Return the hash of the prompt by which a model writes."""
    return prompt_hash(*PROMPT)


async def write_claims(
    client: BatchClient,
    product: str,
    points: Sequence[KeyPoint],
    sampled: Sequence[CleanDocument],
    reviewers: int,
    language: str,
    max_characters: int,
) -> list[Claim]:
    """Return a model's sentences about the points; one call.

    Raises:
        BudgetExhaustedError: the budget leaves no room to ask.
        NoAnswerError: the model gave no usable reply; there is a dead letter.
        ModelServiceError: the model's service is down.
    """
    shown = [
        {
            "id": point.id,
            "polarity": str(point.polarity),
            "support": point.support,
            "quotes": [make_inert(one.quote) for one in point.evidence[:SHOWN_QUOTES]],
        }
        for point in points
    ]
    messages = render(
        *PROMPT,
        language=_LANGUAGE_NAMES.get(language, "English"),
        points=shown,
        pros=sum(one.polarity is Polarity.POSITIVE for one in points),
        cons=sum(one.polarity is Polarity.NEGATIVE for one in points),
        reviewers=reviewers,
        reviews=[
            present_source(number, "", one.text[:max_characters])
            for number, one in enumerate(sampled, start=1)
        ],
    )
    request = LlmRequest(
        name=f"review_summary:{product}:{language}",
        messages=tuple(messages),
        options=GenerationOptions(max_tokens=_MAX_TOKENS, json_schema=_make_schema(points)),
        prompt_hash=get_prompt_hash(),
        read=read_claims,
    )
    return await client.answer(request)


def _make_schema(points: Sequence[KeyPoint]) -> dict[str, Any]:
    def list_sentences(polarity: Polarity) -> dict[str, Any]:
        ids = [one.id for one in points if one.polarity is polarity]
        if not ids:
            return {"type": "array", "maxItems": 0}
        sentence = {
            "type": "object",
            "properties": {
                "text": {"type": "string", "minLength": 1, "maxLength": 300},
                "key_points": {
                    "type": "array",
                    "items": {"type": "string", "enum": ids},
                    "minItems": 1,
                    "maxItems": 2,
                },
            },
            "required": ["text", "key_points"],
            "additionalProperties": False,
        }
        return {"type": "array", "items": sentence, "maxItems": len(ids)}

    return {
        "type": "object",
        "properties": {"pros": list_sentences(Polarity.POSITIVE), "cons": list_sentences(Polarity.NEGATIVE)},
        "required": ["pros", "cons"],
        "additionalProperties": False,
    }


def read_claims(reply: str) -> list[Claim]:
    """Return the sentences of a reply.

    Raises:
        UnusableReplyError: it is no JSON object of the expected shape.
    """
    given = parse_json_object(reply)
    claims: list[Claim] = []
    for section, polarity in (("pros", Polarity.POSITIVE), ("cons", Polarity.NEGATIVE)):
        sentences = given.get(section)
        if not isinstance(sentences, list):
            raise UnusableReplyError(f"expected a list: {section}")
        for one in sentences:
            if not isinstance(one, dict) or not isinstance(one.get("text"), str):
                raise UnusableReplyError(f"expected objects with `text` and `key_points`: {section}")
            ids = one.get("key_points")
            cited = tuple(str(name) for name in ids) if isinstance(ids, list) else ()
            if one["text"].strip():
                claims.append(Claim(" ".join(one["text"].split()), polarity, cited))
    return claims


def keep_claims(
    claims: Sequence[Claim], failures: Sequence[str | None], points: Mapping[str, KeyPoint]
) -> list[SummarySentence]:
    """Return the sentences that held, with the quotes of the points that they cite."""
    return [
        SummarySentence(
            text=claim.text,
            section="pros" if claim.polarity is Polarity.POSITIVE else "cons",
            key_points=claim.key_points,
            evidence=tuple(
                place for one in claim.key_points for place in points[one].evidence[:SHOWN_QUOTES]
            ),
        )
        for claim, failure in zip(claims, failures, strict=True)
        if failure is None
    ]
