"""Find entities by how they are written, or by the names of a catalogue. No model is asked."""

import re
from collections.abc import Iterator
from functools import lru_cache

from llm_engineering.domain.analyses import AnalysisField, Pattern
from llm_engineering.domain.documents import Span

_MONTH = (
    r"(?:jan(?:uar[yi]?|v(?:ier)?)?|feb(?:ruary|ruar)?|févr?(?:ier)?|mar(?:ch|s)?|märz|apr(?:il)?|avr(?:il)?|may|mai|june?|juni|juin"
    r"|july?|juli|juillet|aug(?:ust)?|août|sept?(?:ember|embre)?|o[ck]t(?:ober|obre)?|nov(?:ember|embre)?|de[cz](?:ember)?|déc(?:embre)?)\.?"
)
_WEEKDAY = (
    r"(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday"
    r"|montag|dienstag|mittwoch|donnerstag|freitag|samstag|sonntag"
    r"|lundi|mardi|mercredi|jeudi|vendredi|samedi|dimanche)"
)
_UNIT = r"(?:day|week|weekend|month|year|night|morning|evening|tag|woche|monat|jahr|jour|semaine|mois)"
_SMALL = (
    r"(?:a|an|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|few|couple\s+of|ein(?:e[nrms]?)?|zwei|drei|vier|fünf"
    r"|une?|deux|trois|quatre|cinq|\d+)"
)
_DAY = r"(?:\d{1,2}(?:st|nd|rd|th|er|\.)?)"
_YEAR = r"(?:,?\s+(?:19|20)\d\d)?"
_CURRENCY = r"(?:£|\$|€|¥|USD|EUR|GBP|CHF)"
_MONEY_WORD = r"(?:pounds?|quid|dollars?|bucks?|euros?|francs?|franken|pence|cents?|gbp|usd|eur|chf|£|\$|€)"
_FIGURE = r"\d{1,3}(?:[ ,.'’]\d{3})+(?:[.,]\d{1,2})?|\d+(?:[.,]\d+)?"
_PATTERNS = {
    Pattern.DATE: rf"""
        \b\d{{4}}-\d{{2}}-\d{{2}}\b
        | \b\d{{1,2}}[./]\d{{1,2}}[./](?:\d{{4}}|\d{{2}})\b | \b\d{{1,2}}[./]\d{{1,2}}\b(?![.,]?\d|\s*{_MONEY_WORD})
        | \b(?:the\s+)?{_DAY}(?:\s+of)?\s+{_MONTH}{_YEAR}(?!\w) | \b{_MONTH}\s+(?:the\s+)?{_DAY}{_YEAR}(?!\w)
        | \b{_MONTH}\s+(?:19|20)\d\d\b
        | \b(?:(?:this|next|last|past|every|nächste[nrs]?|letzte[nrs]?|diese[nrs]?)\s+)?{_WEEKDAY}s?\b(?:\s+(?:prochain|dernier))?
        | \b(?:(?:the\s+)?day\s+(?:after\s+tomorrow|before\s+yesterday)|today|tonight|tomorrow|yesterday|vorgestern|gestern
            |heute|übermorgen|morgen(?!s)|hier|aujourd['’]hui|demain)\b
        | \b(?:this|next|last|past|previous|nächste[nrs]?|letzte[nrs]?|diese[nrs]?)\s+(?:{_UNIT}|{_MONTH})\b
        | \b{_SMALL}\s+{_UNIT}s?\s+(?:ago|later)\b | \bin\s+{_SMALL}\s+{_UNIT}(?:s|en|e)?\b
        | \bvor\s+{_SMALL}\s+{_UNIT}(?:en|e)?n?\b
        | \bil\s+y\s+a\s+{_SMALL}\s+{_UNIT}s?\b""",
    Pattern.TIME: r"""
        \b(?:[01]?\d|2[0-3])[:.h][0-5]\d(?:[:.][0-5]\d)?\s*(?:[ap]\.?\s?m\b\.?|uhr\b)? (?!\s*[€$£]|\d|[.,]\d)
        | \b(?:1[0-2]|0?[1-9])\s*[ap]\.?\s?m\b\.? | \b(?:[01]?\d|2[0-3])\s*(?:uhr|o['’]?clock|heures?|h)\b
        | \b(?:half|quarter)\s+(?:past|to)\s+\w+\b
        | \b(?:noon|midnight|midday|mittags?|mitternacht|midi|minuit)\b""",
    Pattern.AMOUNT: rf"""
        {_CURRENCY}\s?(?:{_FIGURE})(?:\s?[kKmM]\b)? | \b(?:{_FIGURE})\s?[kKmM]?\s?{_MONEY_WORD}(?!\w)""",
    Pattern.NUMBER: rf"\b(?:{_FIGURE})\b",
}


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
        for match in _compile(field.pattern).finditer(text):
            group = 1 if match.re.groups and match[1] is not None else 0
            start, end = _trim(text, *match.span(group))
            yield text[start:end], Span(start=start, end=end)
        return
    known = {
        name.casefold(): value for value in field.values for name in (value, *field.aliases.get(value, ()))
    }
    for match in _compile_names(tuple(known)).finditer(text):
        yield known[match[0].casefold()], Span(start=match.start(), end=match.end())


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while end > start and text[end - 1].isspace():
        end -= 1
    while start < end and text[start].isspace():
        start += 1
    return start, end
