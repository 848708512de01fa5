"""Find entities by how they are written, or by the names of a catalogue. No model is asked."""

import re
from collections.abc import Iterator
from functools import lru_cache

from llm_engineering.domain.analyses import AnalysisField, Pattern
from llm_engineering.domain.documents import Span

_MONTHS = (  # those that are no other word as well
    r"(?:january|january|januar|janvier|february|februar|février|märz|april|avril|june|juni|juin|july|juli|juillet|august|août"
    r"|september|septembre|october|oktober|octobre|november|novembre|december|dezember|décembre|(?-i:March|May|Mai|Mars|August))"
)
_MONTH = rf"(?:{_MONTHS}|(?:jan|feb|févr|mar|apr|may|mai|mars|jun|jul|aug|sept?|oct|okt|nov|dec|dez|déc|march)\b\.?)"
_WEEKDAY = (
    r"(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday"
    r"|montag|dienstag|mittwoch|donnerstag|freitag|samstag|sonntag"
    r"|lundi|mardi|mercredi|jeudi|vendredi|samedi|dimanche)s?\b"
)
_UNIT = (
    r"(?:days?|weeks?|weekends?|months?|quarters?|years?|tag(?:en?|e)?|wochen?|monat(?:en?|e)?|jahr(?:en?|e)?"
    r"|jours?|semaines?|mois|ans?)\b"
)
_HOURS = r"(?:minutes?|mins?|hours?|hrs?|minuten|stunden?|heures?)\b"
_COUNT = (
    r"(?:\d+|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|few|several|couple\s+of|ein(?:e[nmrs]?)?|zwei|drei"
    r"|vier|fünf|sechs|une?|deux|trois|quatre|cinq)"
)
_NEAR = (
    r"(?:this|next|last|past|previous|current|coming|every|each|dies(?:e[nmrs]?)?|nächste[nmrs]?|letzte[nmrs]?"
    r"|kommende[nmrs]?)"
)
_ORDINAL = r"\d{1,2}(?:st|nd|rd|th)\b"
_YEAR = r"(?:,?\s+(?:19|20)\d\d\b)?"
_CURRENCY = r"(?:£|\$|€|¥|\bUSD|\bEUR|\bGBP|\bCHF)"
_MONEY_WORD = r"(?:pounds?|quid|dollars?|bucks?|euros?|francs?|franken|pence|cents?|gbp|usd|eur|chf)\b"
_FIGURE = r"\d{1,3}(?:[ \u00a0\u202f,.'’]\d{3})+(?:[.,]\d{1,2})?(?!\d)|\d+(?:[.,]\d+)?"
_HALF = r"(?:\s*(?:[ap]\.\s?m\.|[ap]m\b))"
_PART = r"(?:\s+(?:in\s+the\s+|at\s+)?(?:morning|afternoon|evening|night)\b)"
_PATTERNS = {
    Pattern.DATE: rf"""
        \b\d{{4}}-\d{{2}}-\d{{2}}\b | \b\d{{1,2}}[./]\d{{1,2}}[./](?:\d{{4}}|\d{{2}})\b
        | \b(?:{_ORDINAL}|\d{{1,2}}(?:er\b|\.)?)\s+(?:of\s+)?{_MONTH}{_YEAR}
        | \b{_MONTH}\s+(?:the\s+)?(?:{_ORDINAL}|\d{{1,2}}\b){_YEAR}
        | \b{_MONTHS}{_YEAR}(?!\w)
        | \b(?:first|second|third|fourth|last|{_ORDINAL})\s+(?:{_WEEKDAY}\s+)?(?:of|in)\s+(?:the|{_NEAR})\s+{_UNIT}
        | \bthe\s+week\s+of\s+the\s+{_ORDINAL}
        | \b{_WEEKDAY}\s+in\s+{_COUNT}\s+{_UNIT} | \b(?:{_NEAR}\s+)?{_WEEKDAY}(?:\s+(?:prochain|dernier))?
        | \b(?:the\s+)?day\s+(?:after\s+tomorrow|before\s+yesterday)\b
        | \b(?:today|tonight|tomorrow|yesterday|lately|monthly|weekly|daily)\b
        | \b(?:vorgestern|gestern|heute|übermorgen|morgen|hier|demain)\b
        | \baujourd['’]hui\b | \b(?:last|this|previous)\s+(?:night|morning|afternoon|evening|summer|winter|spring|autumn)\b
        | \b{_NEAR}\s+(?:{_COUNT}\s+)?{_UNIT} | \b{_NEAR}\s+{_MONTH}
        | \b(?:in|within|vor|seit|dans|depuis)\s+{_COUNT}\s+{_UNIT} | \bil\s+y\s+a\s+{_COUNT}\s+{_UNIT}
        | \b{_COUNT}\s+{_UNIT}(?:\s+(?:ago|later|before)\b)? | \b(?:the\s+)?summer\b
        | \b{_ORDINAL}""",
    Pattern.TIME: rf"""
        \b(?:[01]?\d|2[0-3])[:h.][0-5]\d(?::[0-5]\d)?(?:{_HALF}|{_PART}|\s*uhr\b|\b)(?!\s*(?:[€$£]|{_MONEY_WORD})|[.,]?\d)
        | \b\d{{1,2}}\s+(?:to|past)\s+\d{{1,2}}(?:{_HALF}|{_PART}|\b)
        | \b(?:half|quarter)\s+(?:past|to)\s+\w+\b
        | \b(?:1[0-2]|0?\d)\s+[0-5]\d(?:{_HALF}|{_PART})
        | \b(?:[01]?\d|2[0-3])(?:{_HALF}|{_PART}) | \b(?:[01]?\d|2[0-3])\s*(?:uhr|o['’]?clock|heures?|h)\b
        | \b(?:{_NEAR}\s+)?{_COUNT}\s+{_HOURS}(?:\s+ago\b)? | \bil\s+y\s+a\s+{_COUNT}\s+{_HOURS}
        | \b(?:noon|midnight|midday|mittags?|mitternacht|midi|minuit)\b""",
    Pattern.AMOUNT: rf"""
        {_CURRENCY}\s?(?:{_FIGURE})(?:\s?[kKmM]\b)? | (?<![\w.,])(?:{_FIGURE})\s?[kKmM]?\s?(?:[£$€]|{_MONEY_WORD})""",
    # A number is what is no part of the other three, nor of a word.
    Pattern.NUMBER: rf"(?<![\w.,-])(?:{_FIGURE})(?![\w-]|[.,]\d)",
}
_AMOUNT = re.compile(r"(?P<figure>\d[\d.,'’\s]*)(?P<unit>[km](?![^\W\d_]))?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}
_OTHERS = (Pattern.DATE, Pattern.TIME, Pattern.AMOUNT)


@lru_cache(maxsize=256)
def _compile(pattern: str) -> re.Pattern[str]:
    if pattern in _PATTERNS:
        return re.compile(_PATTERNS[Pattern(pattern)], re.IGNORECASE | re.VERBOSE)
    return re.compile(pattern)


@lru_cache(maxsize=256)
def _compile_names(names: tuple[str, ...]) -> re.Pattern[str]:
    # The longest first, so that "Pro Max" is not found as "Pro".
    listed = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{listed})(?!\w)", re.IGNORECASE)


def find_entities(field: AnalysisField, text: str) -> Iterator[tuple[str, Span]]:
    """Yield value and place of each entity, in the order of the text. A value is ``text[start:end]``, or the catalogue's
    name for it. A pattern with a group means the group."""
    if field.pattern is not None:
        taken = (
            [m.span() for other in _OTHERS for m in _compile(other).finditer(text)]
            if field.pattern == Pattern.NUMBER
            else []
        )
        for match in _compile(field.pattern).finditer(text):
            if any(match.start() < end and start < match.end() for start, end in taken):
                continue
            group = 1 if match.re.groups and match[1] is not None else 0
            start, end = _trim(text, *match.span(group))
            yield text[start:end], Span(start=start, end=end)
        return
    known = {
        name.casefold(): value for value in field.values for name in (value, *field.aliases.get(value, ()))
    }
    for match in _compile_names(tuple(known)).finditer(text):
        yield known[match[0].casefold()], Span(start=match.start(), end=match.end())


def read_amount(text: str) -> float:
    """Return the figure of an amount that ``Pattern.AMOUNT`` finds, whatever its marks: ``1.299,00 €`` is 1299, ``$5k`` 5000; 0
    where there is none. The last mark is of thousands if three digits follow it, else of decimals."""
    match = _AMOUNT.search(text)
    if match is None:
        return 0.0
    figure = re.sub(r"['’\s]", "", match["figure"]).rstrip(".,")
    last = max(figure.rfind("."), figure.rfind(",")) + 1
    places = len(figure) - last if last else 0
    digits = float(re.sub(r"[.,]", "", figure))
    return digits / 10.0 ** (0 if places == 3 else places) * _UNITS[(match["unit"] or "").lower()]


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while end > start and text[end - 1].isspace():
        end -= 1
    while start < end and text[start].isspace():
        start += 1
    return start, end
