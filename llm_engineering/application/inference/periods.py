"""Read the time that a request names, in English and German: "since May 2024", "letzten Monat", "from June to August"."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple

from babel import Locale
from dateutil.relativedelta import MO, relativedelta

_TWO_TO_TWELVE = (
    "two three four five six seven eight nine ten eleven twelve",
    "zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
)
NUMBER_WORDS: Mapping[str, int] = {
    word: number for words in _TWO_TO_TWELVE for number, word in enumerate(words.split(), start=2)
} | {"couple": 2, "few": 3, "paar": 3}
_UNITS = dict(
    zip(
        "day week month year tag woche monat jahr".split(),
        ["days", "weeks", "months", "years"] * 2,
        strict=True,
    )
)
_BEGINNINGS = {
    "days": relativedelta(),
    "weeks": relativedelta(weekday=MO(-1)),
    "months": relativedelta(day=1),
    "years": relativedelta(month=1, day=1),
}
_FIRST_YEAR = 1970
_LAST_MOMENT = timedelta(milliseconds=1)
"""The precision that every store keeps."""


class Period(NamedTuple):
    """A span of time; None where it is open. Both ends belong to it, at the precision of milliseconds."""

    start: datetime | None
    end: datetime | None
    spans: tuple[tuple[int, int], ...]
    """Where the words that say so stand."""


def read_period(request: str, now: datetime, *, first_year: int = _FIRST_YEAR) -> Period | None:
    """Return the one period that a request names; None where it names none, or several that do not make one.

    Args:
        now: for words like "last year"; taken in UTC. A month without a year is of the year that the request names, else
            the last one that has begun.
        first_year: an earlier one is another number.
    """
    year = re.search(r"\b(?:19|20)\d\d\b", request)
    starts, ends, spans = list[datetime | None](), list[datetime | None](), list[tuple[int, int]]()
    opened: re.Match[str] | None = None
    for match in _date_pattern().finditer(request):
        dates = _read_date(match, int(year[0]) if year else None, now.astimezone(UTC), first_year)
        if dates is None or (match["to"] and not opened):
            continue
        start, end = dates
        if opened and starts[-1] and (match["to"] or match["and"] or match["until"]):
            if starts[-1] <= start:
                ends[-1] = end
            elif opened["month"] and not opened["year"]:  # from November to February
                starts[-1], ends[-1] = starts[-1] - relativedelta(years=1), end
            else:
                starts[-1] = start
        elif match["after"]:
            starts.append(end and end + _LAST_MOMENT)
            ends.append(None)
        elif match["before"]:
            starts.append(None)
            ends.append(start - _LAST_MOMENT)
        else:
            starts.append(None if match["until"] else start)
            ends.append(None if match["since"] or match["onwards"] else end)
        opened = match if match["from"] else None
        spans.append(match.span())
    low = max(filter(None, starts), default=None)
    high = min(filter(None, ends), default=None)
    if (low is None and high is None) or (low and high and low > high):
        return None
    return Period(low, high, tuple(spans))


def describe_period(start: datetime | None, end: datetime | None) -> str:
    """Return both days: "2026-09-01 to …"."""
    return " to ".join(f"{bound:%Y-%m-%d}" if bound else "…" for bound in (start, end))


@cache
def load_locales() -> tuple[Locale, Locale]:
    """Return what is known of English and of German."""
    return Locale("en"), Locale("de")


@cache
def load_months() -> Mapping[str, int]:
    """Return the numbers of the months by their folded names, whole and short."""
    names = [locale.months["format"][width] for locale in load_locales() for width in ("wide", "abbreviated")]
    return {name.casefold().rstrip("."): number for months in names for number, name in months.items()}


@cache
def _date_pattern() -> re.Pattern[str]:
    month = "|".join(sorted(load_months(), key=len, reverse=True))
    count = rf"(?:an?\s+|ein\s+)?(?:\d{{1,3}}|{'|'.join(NUMBER_WORDS)})(?:\s+of)?|an?|one|eine[mnr]?"
    unit = "|".join(_UNITS)
    return re.compile(
        rf"""(?<![\w-])(?:(?P<lead>
            (?P<since>since|starting\s+(?:in|from)|seit|ab) | (?P<after>after|(?:later|newer)\s+than|nach)
          | (?P<before>before|prior\s+to|(?:earlier|older)\s+than|vor) | (?P<until>until|till|bis)
          | (?P<from>from|von|vom|between|zwischen) | (?P<to>to|through) | (?P<and>and|und)
          | in|im|on|am|of|aus|during|within|over|or|oder
        )\s+)?(?:(?:the|das|dem|den|der)\s+)?(?:
          (?P<iso>\d{{4}}-\d\d(?:-\d\d)?) | (?P<dotted>\d{{1,2}}\.\d{{1,2}}\.\d{{4}}) | (?P<only>\d{{4}})
        | (?:(?P<day>\d{{1,2}})(?:st|nd|rd|th|\.)?\s+(?:of\s+)?)?(?P<month>{month})\.?
          (?:\s+(?P<day2>\d{{1,2}})(?:st|nd|rd|th)?(?!\d))?(?:,?\s+(?:of\s+)?(?P<year>\d{{4}}))?
        | (?P<which>this|last|past|previous|dies\w+|letzte\w?|vorige\w?|vergangene\w?)\s+
          (?:(?P<count>{count})\s+)?(?P<unit>{unit})(?:e?[ns]|e)?
        | seit\s+(?P<count2>{count})\s+(?P<unit2>{unit})(?:e?[ns]|e)?
        | (?P<vor>vor\s+)?(?P<ago>{count})\s+(?P<unit3>{unit})(?:e?[ns]|e)?(?(vor)|\s+ago)
        | (?P<today>today|heute) | (?P<yesterday>yesterday|gestern)
        )(?P<onwards>\s+on(?:wards?|(?=\s*(?:[,.?!]|$))))?(?![\w-]|[.,:/]\d|['’]s\b)""",
        re.IGNORECASE | re.VERBOSE,
    )


def _read_date(
    match: re.Match[str], named_year: int | None, now: datetime, first_year: int
) -> tuple[datetime, datetime | None] | None:
    """The first and the last moment of a day, week, month or year; None where there is none, or nobody published."""
    today = datetime(now.year, now.month, now.day, tzinfo=UTC)
    which, count = (match["which"] or "").casefold(), match["count"] or match["count2"]
    unit = _UNITS[(match["unit"] or match["unit2"] or match["unit3"] or "day").casefold()]
    if count or which == "past":
        return today - relativedelta(**{unit: _read_count(count)}), None
    if which.startswith(("this", "dies")):
        return today + _BEGINNINGS[unit], None
    if which or match["ago"] or match["today"] or match["yesterday"]:
        return _cover(
            today - relativedelta(**{unit: 0 if match["today"] else _read_count(match["ago"])}), unit
        )
    year, month, day = int(match["year"] or match["only"] or named_year or now.year), 0, 0
    if match["iso"]:
        year, month, day = (*map(int, match["iso"].split("-")), 0)[:3]
    elif match["dotted"]:
        day, month, year = map(int, match["dotted"].split("."))
    elif match["month"]:
        month, day = load_months()[match["month"].casefold()], int(match["day"] or match["day2"] or 0)
    if not match["lead"] or not first_year <= year <= now.year + 1:
        return None
    try:
        start = datetime(year, month or 1, day or 1, tzinfo=UTC)
    except ValueError:
        return None
    if match["month"] and not match["year"] and not named_year and start > now:
        start -= relativedelta(years=1)
    return _cover(start, "days" if day else "months" if month else "years")


def _cover(day: datetime, unit: str) -> tuple[datetime, datetime]:
    """The day, week, month or year in which a day lies."""
    start = day + _BEGINNINGS[unit]
    return start, start + relativedelta(**{unit: 1}) - _LAST_MOMENT


def _read_count(words: str | None) -> int:
    """The number that words like "a few" or "12" say; one where they say none."""
    said = (words or "").casefold().split()
    return next(
        (int(w) if w.isdigit() else NUMBER_WORDS[w] for w in said if w.isdigit() or w in NUMBER_WORDS), 1
    )
