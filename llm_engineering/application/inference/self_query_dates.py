"""Dates in a question, read by rule: "since 2024", "between March and May 2023" (years given), "last month"."""

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_MONTHS = {name.casefold(): number for number, name in enumerate(calendar.month_name) if name} | {
    name.casefold(): number for number, name in enumerate(calendar.month_abbr) if name
}
_NUMBERS = dict(
    zip("one two three four five six seven eight nine ten eleven twelve".split(), range(1, 13), strict=True)
)
_FIRST_YEAR = 1970
_LAST_MOMENT = timedelta(milliseconds=1)
"""The precision that every store keeps."""

_MONTH = "(?:" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_DATE = (
    rf"\d{{4}}-\d{{2}}-\d{{2}}|\d{{4}}-\d{{2}}|{_DAY}\s+(?:of\s+)?{_MONTH},?\s+\d{{4}}|{_MONTH}\s+{_DAY},?\s+\d{{4}}"
    rf"|{_MONTH},?\s+\d{{4}}|\d{{4}}"
)
_AHEAD = r"(?![\w-]|[.,:/]\d|['’]s\b)"
"""No part of a longer number, word or version, and no owner: "today's article"."""
_THE = r"(?:the\s+)?"
_COUNT = r"(?:\d{1,3}|" + "|".join(_NUMBERS) + r"|few|couple\s+of)"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{text}){_AHEAD}", re.IGNORECASE)


_BETWEEN = _pattern(
    rf"(?:between\s+{_THE}(?P<a>{_DATE})\s+and|from\s+{_THE}(?P<b>{_DATE})\s+(?:to|until|till|through))\s+{_THE}(?P<end>{_DATE})"
)
_SINCE = _pattern(
    rf"(?:since|starting\s+(?:in|from))\s+{_THE}(?P<date>{_DATE})|from\s+{_THE}(?P<on>{_DATE})\s+on(?:wards?)?"
)
_AFTER = _pattern(rf"(?:after|later\s+than|newer\s+than)\s+{_THE}(?P<date>{_DATE})")
_BEFORE = _pattern(rf"(?:before|prior\s+to|earlier\s+than|older\s+than)\s+{_THE}(?P<date>{_DATE})")
_UNTIL = _pattern(rf"(?:until|till|up\s+to)\s+{_THE}(?P<date>{_DATE})")
_WITHIN = _pattern(rf"(?:in|during|of|from|on)\s+{_THE}(?P<date>{_DATE})")
_CALENDAR = _pattern(r"(?P<which>this|last|previous)\s+(?P<unit>week|month|year)")
_ROLLING = _pattern(
    rf"(?:in|over|during|within|from|for)?\s*(?:the\s+)?(?:last|past)\s+(?P<count>{_COUNT})\s+(?P<unit>day|week|month|year)s?"
    r"|(?:in|over|during|within)\s+the\s+past\s+(?P<one>day|week|month|year)"
)
_DAYS = _pattern(r"(?P<day>today|yesterday)")


@dataclass(frozen=True, slots=True)
class Period:
    """A span of time; None where it is open. Both ends belong to it, at the precision of milliseconds."""

    start: datetime | None
    end: datetime | None
    phrase: str
    """The words of the question that say so."""


def read_period(question: str, now: datetime) -> Period | None:
    """Return the one period that a question names; None where it names none, or several that do not make one.

    Args:
        now: for words like "last year"; taken in UTC.
    """
    now = now.astimezone(UTC)
    found = _periods(question, now)
    if len(found) == 1:
        return found[0]
    if len(found) == 2:
        # "since 2022 but before 2024": two open ends that make one period
        starts = [period for period in found if period.start and not period.end]
        ends = [period for period in found if period.end and not period.start]
        if len(starts) == len(ends) == 1:
            start, end = starts[0].start, ends[0].end
            if start and end and start <= end:
                return Period(start, end, f"{found[0].phrase} … {found[1].phrase}")
    return None


def _periods(question: str, now: datetime) -> list[Period]:
    """Periods in the order of the text; each word is read once, by the longest form first."""
    found: list[tuple[int, Period]] = []
    left = question
    for pattern, read in _FORMS:
        for match in list(pattern.finditer(left)):
            bounds = read(match, now)
            if bounds is not None:
                found.append((match.start(), Period(*bounds, " ".join(match.group().split()))))
                left = left[: match.start()] + "\0" * len(match.group()) + left[match.end() :]
    return [period for _, period in sorted(found, key=lambda item: item[0])]


Bounds = tuple[datetime | None, datetime | None]


def _between(match: re.Match[str], now: datetime) -> Bounds | None:
    first, second = _date(match["a"] or match["b"], now), _date(match["end"], now)
    if first is None or second is None:
        return None
    return min(first[0], second[0]), max(first[1], second[1])


def _since(match: re.Match[str], now: datetime) -> Bounds | None:
    date = _date(match["date"] or match["on"], now)
    return date and (date[0], None)


def _after(match: re.Match[str], now: datetime) -> Bounds | None:
    date = _date(match["date"], now)
    return date and (date[1] + _LAST_MOMENT, None)


def _before(match: re.Match[str], now: datetime) -> Bounds | None:
    date = _date(match["date"], now)
    return date and (None, date[0] - _LAST_MOMENT)


def _until(match: re.Match[str], now: datetime) -> Bounds | None:
    date = _date(match["date"], now)
    return date and (None, date[1])


def _within(match: re.Match[str], now: datetime) -> Bounds | None:
    return _date(match["date"], now)


def _calendar(match: re.Match[str], now: datetime) -> Bounds | None:
    unit = match["unit"].casefold()
    today = datetime(now.year, now.month, now.day, tzinfo=UTC)
    if unit == "week":
        start = today - timedelta(days=today.weekday())
    else:
        start = today.replace(day=1) if unit == "month" else today.replace(month=1, day=1)
    if match["which"].casefold() != "this":
        return _back(start, 1, unit), start - _LAST_MOMENT
    return start, None


def _rolling(match: re.Match[str], now: datetime) -> Bounds | None:
    unit = (match["unit"] or match["one"]).casefold()
    said = (match["count"] or "1").casefold()
    count = int(said) if said.isdigit() else _NUMBERS.get(said, 3 if said == "few" else 2)
    today = datetime(now.year, now.month, now.day, tzinfo=UTC)
    return (_back(today, count, unit), None) if count else None


def _day(match: re.Match[str], now: datetime) -> Bounds | None:
    today = datetime(now.year, now.month, now.day, tzinfo=UTC)
    start = today if match["day"].casefold() == "today" else today - timedelta(days=1)
    return start, start + timedelta(days=1) - _LAST_MOMENT


_FORMS = (
    (_BETWEEN, _between),
    (_SINCE, _since),
    (_AFTER, _after),
    (_BEFORE, _before),
    (_UNTIL, _until),
    (_WITHIN, _within),
    (_ROLLING, _rolling),
    (_CALENDAR, _calendar),
    (_DAYS, _day),
)


def _date(text: str, now: datetime) -> tuple[datetime, datetime] | None:
    """First and last moment of a day, a month or a year; None for what is no date, or a year nobody published in."""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    word = re.search(r"[A-Za-z]{3,}", re.sub(r"(?i)\d+(?:st|nd|rd|th)|\bof\b", "", text))
    year = next((number for number in numbers if number > 31), None)
    if year is None or not _FIRST_YEAR <= year <= now.year + 1:
        return None
    rest = [number for number in numbers if number != year]
    month = _MONTHS[word.group().casefold()] if word else (rest.pop(0) if rest else None)
    day = rest[0] if rest else None
    try:
        start = datetime(year, month or 1, day or 1, tzinfo=UTC)
    except ValueError:
        return None
    after = start + timedelta(days=1) if day else _back(start, -1, "month" if month else "year")
    return start, after - _LAST_MOMENT


def _back(moment: datetime, count: int, unit: str) -> datetime:
    """So many units earlier; the last day of a shorter month where the day does not exist."""
    if unit in ("day", "week"):
        return moment - timedelta(days=count * (7 if unit == "week" else 1))
    months = moment.year * 12 + moment.month - 1 - count * (12 if unit == "year" else 1)
    year, month = max(_FIRST_YEAR, months // 12), months % 12 + 1
    return moment.replace(year=year, month=month, day=min(moment.day, calendar.monthrange(year, month)[1]))
