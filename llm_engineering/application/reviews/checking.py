"""Hold each sentence of a summary against what was counted: is it said, is it meant so, and by as many?

A sentence over many reviews is an opinion with a quantifier. The opinion must be that of the points it cites, praise with praise;
the quantifier must fit their counts. What fails is left out of the summary.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_engineering.application.reviews.polarity import PolarityScorer
from llm_engineering.application.text.words import content_stems
from llm_engineering.domain.reviews import KeyPoint, Polarity

SURE = 0.35
"""Score from which on a sentence clearly praises or complains."""
_WORDS: tuple[tuple[str, float, float], ...] = (
    # Words, and the share of reviewers they stand for: from, up to but not including.
    (r"(?:the )?(?:majority|most)(?: of)?|nearly all|almost all|die meisten|fast alle|"
     r"la plupart|la mayoría|la maggior parte|de meeste[n]?", 0.6, 1.01),
    (r"no ?one|nobody|none|niemand|personne|nadie|nessuno", 0.0, 0.0),
    (r"all|every(?:one|body)?|always|alle|jeder|tous|toutes|todos|todas|tutti|tutte|iedereen", 1.0, 1.01),
    (r"many|viele|beaucoup|muchos|muchas|molti|molte|veel", 0.3, 1.01),
    (r"some|a few|few|several|einige|wenige|manche|quelques|certains|algunos|algunas|pocos|"
     r"alcuni|alcune|pochi|sommige[n]?|enkele[n]?", 0.0, 0.3),
)  # fmt: skip
_SHARES = [
    (re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE), low, high) for words, low, high in _WORDS
]
_PEOPLE = r"(?:reviewers?|customers?|people|buyers?|users?|guests?|kunden|personnes|clients|clientes|clienti|klanten)"
_ONE = re.compile(rf"(?<!\w)(?:one|a single|an?|ein|un|uno|één)\s+{_PEOPLE}", re.IGNORECASE)
_OF = re.compile(r"(\d+)\s*(?:of|out of|von|sur|de|su|van|/)\s*(?:the\s+)?(\d+)", re.IGNORECASE)
_PERCENT = re.compile(r"(\d+(?:[.,]\d+)?)\s*(?:%|percent)")
_COUNT = re.compile(rf"(?<![\d.,])(\d+)\s+{_PEOPLE}", re.IGNORECASE)
_SAYING = re.compile(
    rf"{_PEOPLE}|(?<!\w)(?:praise|say|find|report|mention|think|note|the)s?(?!\w)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence with what it says it rests on."""

    text: str
    polarity: Polarity
    key_points: tuple[str, ...]


def check_claims(
    claims: Sequence[Claim], points: Sequence[KeyPoint], reviewers: int, scorer: PolarityScorer
) -> list[str | None]:
    """Return for each claim why it does not hold; None: it does.

    Args:
        reviewers: of all reviews that count.
    """
    known = {point.id: point for point in points}
    return [_check(claim, known, reviewers, scorer) for claim in claims]


def _check(claim: Claim, known: Mapping[str, KeyPoint], reviewers: int, scorer: PolarityScorer) -> str | None:
    cited = [known[one] for one in claim.key_points if one in known]
    if not cited or len(cited) < len(claim.key_points):
        return "it cites no point that was counted"
    if any(point.polarity is not claim.polarity for point in cited):
        return "it mixes praise with complaints"
    if any(misfit := _fit_quantity(claim.text, point, reviewers) for point in cited):
        return str(
            next(filter(None, (_fit_quantity(claim.text, point, reviewers) for point in cited)), misfit)
        )
    opinion = strip_quantity(claim.text)
    score = float(scorer.score([opinion])[0])
    if abs(score) >= SURE and (score > 0) is not (claim.polarity is Polarity.POSITIVE):
        return f"it says the opposite of what it cites ({score:+.2f})"
    if not all(_is_about(opinion, point, scorer) for point in cited):
        return "no quote that it cites is about it"
    return None


def strip_quantity(text: str) -> str:
    """Return a sentence without how many say so: "12 of 60 reviewers praise the screen" is "screen"."""
    for pattern in (_OF, _PERCENT, _COUNT, _ONE, *(pattern for pattern, _, _ in _SHARES), _SAYING):
        text = pattern.sub(" ", text)
    return " ".join(text.split()).strip(" ,:;.") or text


def _fit_quantity(text: str, point: KeyPoint, reviewers: int) -> str | None:
    """Why the quantifiers of a sentence do not fit a point's count; None: they do."""
    share = point.support / max(reviewers, 1)
    found = [(int(part), int(whole)) for part, whole in _OF.findall(text)]
    if any(pair != (point.support, reviewers) for pair in found):
        return f"its numbers are not {point.support} of {reviewers}"
    rest = _OF.sub(" ", text)
    for given in _PERCENT.findall(rest):
        if abs(float(given.replace(",", ".")) - 100 * share) > 1:
            return f"its percentage is not {share:.0%}"
    if any(int(given) != point.support for given in _COUNT.findall(_PERCENT.sub(" ", rest))):
        return f"its number is not {point.support}"
    if _ONE.search(rest) and point.support != 1:
        return f"it says one, where {point.support} say so"
    if rest != text or _PERCENT.search(rest):
        return None  # exact numbers leave nothing for words to say
    opening = rest[:60]  # where a sentence says how many; "all day" stands behind
    for pattern, low, high in _SHARES:
        if pattern.search(opening):
            if low <= share < high:
                return None
            return f"its quantity does not fit {point.support} of {reviewers}"
    return None


def _is_about(opinion: str, point: KeyPoint, scorer: PolarityScorer) -> bool:
    quotes = [one.quote for one in point.evidence[:12]]
    words = content_stems(opinion)
    if point.name and content_stems(point.name) & words:
        return True
    if any(len(words & content_stems(quote)) >= 2 for quote in quotes):
        return True
    vectors = scorer.embedder.embed([opinion, *quotes])
    return float((vectors[1:] @ vectors[0]).max()) >= scorer.related + 0.1
