"""Filters read from a question by rule, without a model: fast, repeatable, and silent rather than wrong.

A value is taken for a filter only where the words around it say that it is meant as one: "on Medium" behind "wrote", but
neither "medium-sized" nor "how do I log in on Medium"; "articles by Ada", but not "who is Ada". English questions only;
other languages are searched without a filter, unless a model reads them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from llm_engineering.application.inference.search import Facets
from llm_engineering.application.inference.self_query_dates import read_period
from llm_engineering.domain.retrieval import MetadataFilter


@dataclass(frozen=True, slots=True)
class Reading:
    """A filter, and for each part of it the words that it was read from."""

    filter: MetadataFilter = MetadataFilter()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    folded: str
    possessive: bool
    ends_clause: bool
    """A comma, a full stop or the like follows."""


@dataclass(frozen=True, slots=True)
class _Match:
    """A value that stands in the words [start, end) of the question."""

    value: str
    start: int
    end: int
    before: int = 0
    after: int = 0
    """How many words around it say that it is meant as a filter."""


_WORDS = re.compile(r"\w+(?:[-.&+]\w+)*(?:\+\+|#)?")
_CLAUSE_END = re.compile(r"\s*[,.;:!?()\n—–]")
_POSSESSIVE = re.compile(r"['’](?:s\b|(?=\s|$))", re.IGNORECASE)

_FUNCTION_WORDS = frozenset(
    "about after and any are at before between but by concerning cover covering covers describe describes did discuss"
    " discusses discussing do does during explain explains for from had has have how i in into is last me mention"
    " mentioning mentions of on or posted published regarding say says since talk talks tell that the their there these"
    " this though those till until us was we were what when where which who whose why will with within would written you".split()
)
"""What may follow a value that is meant as a filter; a noun there would make a compound ("GitHub Actions")."""
_NEGATIONS = frozenset(
    "not no except excluding without than never besides beyond instead isn didn wasn nor".split()
)
_COMPOSING = frozenset(
    "write writing create creating draft compose generate make build publish become start structure format design".split()
)
"""Behind these a category is something to be made, not somewhere to look."""
_PUBLISHING = frozenset(
    "article articles blog blogs blogged contribute contributed essay essays newsletter newsletters post posts posted"
    " posting publication publications publish published publishes publishing repo repos repositories repository say"
    " says said share shared stories story talk talked thread threads tweet tweeted tweets write writes writing writings"
    " wrote written".split()
)
_PUBLICATIONS = frozenset(
    "article articles blogs essay essays newsletter newsletters post posts publication publications repo repos"
    " repositories repository stories story threads".split()
)
_OPINION_VERBS = frozenset(
    "advise advises advised argue argues argued believe believes believed claim claims claimed describe describes"
    " described explain explains explained mention mentions mentioned post posts posted prefer prefers preferred propose"
    " proposes proposed publish publishes published recommend recommends recommended say says said suggest suggests"
    " suggested think thinks thought warn warns warned write writes written wrote".split()
)
_OPINION_NOUNS = _PUBLICATIONS | frozenset(
    "advice approach argument arguments blog code guide guides notes opinion opinions point position post posts"
    " recommendation recommendations stance take texts thoughts tips view views writing writings words".split()
)
_AUXILIARIES = frozenset("did do does has have had would should".split())
_GENERIC_NAMES = frozenset(
    "a admin an and anonymous author authors company department editor editorial editors for group guest in magazine my"
    " news of office on organisation organization our project public staff support team the unknown user we".split()
)
_MONTHS_AS_NAMES = frozenset(
    "april august june may will mark bill sky summer art dawn faith grace hope joy rose".split()
)
_KNOWN_PLATFORMS = frozenset(
    "bitbucket bluesky blogger dev.to devto facebook github gitlab hashnode instagram linkedin mastodon quora reddit"
    " stackoverflow substack twitter wordpress youtube".split()
)
"""Names that are no other word; any other platform needs a capital, a dot or a verb of publishing."""
_SELECTORS = frozenset(
    "all any find latest list my newest only our recent search these those which your".split()
)
_SEARCHING = frozenset("all any find list only search which".split())
_CONTRACTED = frozenset("he here how it let she that there today what when where who yesterday".split())
"""With 's they own nothing: "let's review"."""
_INSIDE = frozenset("across from in within".split())
_DETERMINERS = frozenset("a an any her his my our the their these those your".split())
_CATEGORY_NOUNS: dict[str, tuple[str, ...]] = {
    "article": ("article", "articles", "blog post", "blog posts", "essay", "essays"),
    "post": ("post", "posts", "status updates", "tweet", "tweets"),
    "repository": ("repository", "repositories", "repo", "repos", "codebase", "source code"),
    "movie": ("movie", "movies", "film", "films"),
    "review": ("review", "reviews"),
    "ticket": ("ticket", "tickets", "support ticket", "support tickets"),
    "question": ("course question", "course questions", "faq", "faqs"),
}  # fmt: skip
_LANGUAGE_NAMES = {
    "ar": "arabic", "bg": "bulgarian", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "et": "estonian", "fa": "persian", "fi": "finnish", "fr": "french", "he": "hebrew", "hi": "hindi",
    "hr": "croatian", "hu": "hungarian", "id": "indonesian", "it": "italian", "ja": "japanese", "ko": "korean",
    "lt": "lithuanian", "lv": "latvian", "nl": "dutch", "no": "norwegian", "pl": "polish", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "sk": "slovak", "sl": "slovenian", "sr": "serbian", "sv": "swedish",
    "th": "thai", "tr": "turkish", "uk": "ukrainian", "vi": "vietnamese", "zh": "chinese",
}  # fmt: skip
_TEXT_NOUNS = _PUBLICATIONS | frozenset("documents notes pages sources texts".split())
_CODE_NOUNS = frozenset(
    "code codebase file files modules programs repo repos repositories repository scripts source sources".split()
)
_ANSWERING = frozenset("answer explain reply respond say speak summarise summarize tell translate".split())


def read_rules(question: str, known: Facets, now: datetime) -> Reading:
    """Return the filter that the question asks for, made of values that exist; empty where it asks for none.

    Args:
        now: what "last year" is counted from.
    """
    words = _words(question)
    authors = _kept(words, _authors(words, sorted(known.author)))
    platforms = _kept(words, _platforms(words, sorted(known.platform)))
    names = [*authors, *platforms]
    categories = _kept(words, _categories(words, sorted(known.category), names))
    languages = _kept(words, _languages(words, sorted(known.language)))
    found = (
        ("authors", authors),
        ("platforms", platforms),
        ("categories", categories),
        ("languages", languages),
    )
    fields: dict[str, object] = {
        field: tuple(match.value for match in matches) for field, matches in found if matches
    }
    reasons = [
        f"{field} = {match.value} (“{_said(words, match)}”)" for field, matches in found for match in matches
    ]
    # When something happened is not when it was written about, unless the question is about writing.
    if fields or _about_publishing(words):
        period = read_period(question, now)
        if period is not None:
            fields |= {"published_from": period.start, "published_to": period.end}
            reasons.append(f"published {_dates(period.start, period.end)} (“{period.phrase}”)")
    return Reading(MetadataFilter.model_validate(fields), tuple(reasons)) if fields else Reading()


def _about_publishing(words: Sequence[_Word]) -> bool:
    said = {word.folded for word in words}
    return bool(said & (_PUBLISHING if "did" in said else _PUBLISHING - _COMPOSING))


# --- the four fields -------------------------------------------------------------------------------------------------


def _authors(words: Sequence[_Word], authors: Sequence[str]) -> list[_Match]:
    named: list[_Match] = []
    meant: list[_Match] = []
    for name in authors:
        parts = _folded(name)
        for start, end in _occurrences(words, parts):
            if any(part in _GENERIC_NAMES for part in parts):
                exact = [word.text for word in words[start:end]] == [word.text for word in _words(name)]
                if not exact or _before(words, start) not in ("by", "author"):
                    continue
            named.append(_Match(name, start, end, 1, 1))
            if _names_author(words, start, end, whole=len(parts) > 1):
                meant.append(named[-1])
    for part, name in _unique_parts(authors).items():
        for start, end in _occurrences(words, [part]):
            if words[start].text[0].isupper():
                named.append(_Match(name, start, end, 1, 1))
                if _names_author(words, start, end, whole=False):
                    meant.append(named[-1])
    return _with_joined(words, meant, named)


def _unique_parts(authors: Sequence[str]) -> dict[str, str]:
    """First and last names that belong to one author, and are no other word."""
    owners: dict[str, set[str]] = {}
    for name in authors:
        parts = _folded(name)
        if len(parts) > 1 and not any(part in _GENERIC_NAMES for part in parts):
            for part in (parts[0], parts[-1]):
                if len(part) > 2 and part.isalpha() and part not in _MONTHS_AS_NAMES | _FUNCTION_WORDS:
                    owners.setdefault(part, set()).add(name)
    return {part: min(names) for part, names in owners.items() if len(names) == 1}


def _names_author(words: Sequence[_Word], start: int, end: int, *, whole: bool) -> bool:
    """Whether the words around a name say that its bearer's writing is meant. ``whole``: a name of several words, which
    needs less around it."""
    if any(word.possessive or word.ends_clause for word in words[start : end - 1]):
        return False
    before = _before(words, start)
    after = words[end].folded if end < len(words) and not words[end - 1].ends_clause else ""
    if words[end - 1].possessive:
        behind = words[end + 1].folded if end + 1 < len(words) else ""
        return after in _OPINION_NOUNS or behind in _PUBLICATIONS
    if before in ("by", "author") or (before == "to" and _before(words, start - 1) == "according"):
        return _ends(words, end) or after in _FUNCTION_WORDS
    if whole and before == "from":
        return any(word.folded in _PUBLISHING for word in words[:start])
    if after in _OPINION_VERBS:
        return before in _AUXILIARIES or before in _FUNCTION_WORDS or start == 0
    return whole and before in _AUXILIARIES


def _platforms(words: Sequence[_Word], platforms: Sequence[str]) -> list[_Match]:
    named: list[_Match] = []
    meant: list[_Match] = []
    for value in platforms:
        distinctive = value.casefold() in _KNOWN_PLATFORMS or any(not c.isalpha() for c in value)
        for start, end in _occurrences(words, _folded(value)):
            if words[end - 1].possessive or _composed(words, start):
                continue
            named.append(_Match(value, start, end, 1))
            sure = distinctive or (start > 0 and words[start].text[0].isupper())
            noun = "" if _ends(words, end) else words[end].folded
            inside = _before(words, start) in _DETERMINERS and _before(words, start - 1) in _INSIDE
            if noun in _PUBLICATIONS and sure and (noun.endswith("s") or inside):
                meant.append(_Match(value, start, end, after=1))
            elif (
                _before(words, start) in ("on", "from", "via")
                and any(word.folded in _PUBLISHING for word in words[max(0, start - 8) : start])
                and (not noun or (noun in _FUNCTION_WORDS and sure))
            ):
                meant.append(named[-1])
    return _with_joined(words, meant, named)


def _categories(words: Sequence[_Word], categories: Sequence[str], names: Sequence[_Match]) -> list[_Match]:
    named: list[_Match] = []
    meant: list[_Match] = []
    for value in categories:
        for noun in _CATEGORY_NOUNS.get(value, (value, f"{value}s")):
            for start, end in _occurrences(words, noun.split()):
                if value == "post" and start and words[start - 1].folded == "blog":
                    continue  # a blog post is an article
                named.append(_Match(value, start, end, 2))
                if _names_category(words, start, end, names):
                    meant.append(named[-1])
    return _with_joined(words, meant, named)


def _names_category(words: Sequence[_Word], start: int, end: int, names: Sequence[_Match]) -> bool:
    if words[end - 1].possessive or _composed(words, start):
        return False
    before, earlier = _before(words, start), _before(words, start - 1)
    following = "" if _ends(words, end) else words[end].folded
    if following and following not in _FUNCTION_WORDS | _OPINION_VERBS:
        return False  # "post office", "review process"
    plural = words[end - 1].folded.endswith("s")
    if plural and before in _SELECTORS:
        return True
    if start and words[start - 1].possessive and before not in _CONTRACTED:
        return True  # "Ada's articles"
    if plural and any(match.end == start for match in names):
        return True  # "the LinkedIn posts"
    if before in _DETERMINERS and earlier in _INSIDE:
        return plural or (before in ("the", "my", "our", "your") and following in ("", "about", "on", "by"))
    return (
        plural
        and following in ("about", "by", "mention", "mentioning", "discuss", "discussing", "that")
        and (start < 4)
    )


def _languages(words: Sequence[_Word], languages: Sequence[str]) -> Iterator[_Match]:
    for value in languages:
        natural = _LANGUAGE_NAMES.get(value.casefold())
        nouns = _TEXT_NOUNS if natural else _CODE_NOUNS
        for start, end in _occurrences(words, [natural or value.casefold()]):
            if _composed(words, start) or any(
                word.folded in _ANSWERING for word in words[max(0, start - 5) : start]
            ):
                continue
            before, earlier = _before(words, start), _before(words, start - 1)
            following = "" if _ends(words, end) else words[end].folded
            if before == "in" and (
                earlier in nouns or (earlier == "written" and _before(words, start - 2) in nouns)
            ):
                if not following or following in _FUNCTION_WORDS:
                    yield _Match(value, start, end, 2)
            elif following in nouns and (
                before in _SEARCHING
                or (natural and start == 0)
                or (before in _DETERMINERS and earlier in _INSIDE)
            ):
                yield _Match(value, start, end, 1, 1)


def _with_joined(words: Sequence[_Word], meant: Sequence[_Match], named: Sequence[_Match]) -> list[_Match]:
    """Also the values that "and" or "or" joins to one that is meant: what holds for Ada holds for "Ada or Ben"."""
    kept = list(meant)
    for match in kept:  # grows while it is walked
        for other in named:
            first, second = sorted((match, other), key=lambda each: each.start)
            between = [word.folded for word in words[first.end : second.start]]
            if between in (["and"], ["or"]) and other.value not in {each.value for each in kept}:
                kept.append(_Match(other.value, other.start, other.end, 1))
    return kept


# --- words -----------------------------------------------------------------------------------------------------------


def _words(text: str) -> list[_Word]:
    found = []
    for match in _WORDS.finditer(text):
        possessive = _POSSESSIVE.match(text, match.end())
        end = possessive.end() if possessive else match.end()
        owns = possessive is not None and (possessive.group() != "'" or match.group()[-1] in "sS")
        if match.group() in ("s", "S") and match.start() and text[match.start() - 1] in "'’":
            continue  # the possessive's own letter
        found.append(_Word(match.group(), match.group().casefold(), owns, bool(_CLAUSE_END.match(text, end))))
    return found


@lru_cache(maxsize=4_096)
def _folded(value: str) -> list[str]:
    return [word.folded for word in _words(value)]


def _occurrences(words: Sequence[_Word], parts: Sequence[str]) -> Iterator[tuple[int, int]]:
    size = len(parts)
    if not size:
        return
    first = parts[0]
    for start in range(len(words) - size + 1):
        if words[start].folded == first and all(words[start + i].folded == parts[i] for i in range(1, size)):
            yield start, start + size


def _before(words: Sequence[_Word], position: int) -> str:
    """The word before, in the same clause; empty where there is none."""
    if position < 1 or words[position - 1].ends_clause:
        return ""
    return words[position - 1].folded


def _ends(words: Sequence[_Word], end: int) -> bool:
    """Whether the clause ends behind the word before ``end``."""
    return end >= len(words) or words[end - 1].ends_clause


def _composed(words: Sequence[_Word], start: int) -> bool:
    """Whether the question is about making such a thing. "What did she write" is about what is there."""
    said = [word.folded for word in words[:start]]
    return any(word in _COMPOSING for word in said[-4:]) and "did" not in said


def _kept(words: Sequence[_Word], matches: Iterable[_Match]) -> list[_Match]:
    """Each value once, without those that the question speaks of to leave them out."""
    kept: dict[str, _Match] = {}
    for match in matches:
        around = words[max(0, match.start - 4) : match.end]
        if not any(word.folded in _NEGATIONS for word in around):
            kept.setdefault(match.value, match)
    return list(kept.values())


def _said(words: Sequence[_Word], match: _Match) -> str:
    return " ".join(word.text for word in words[max(0, match.start - match.before) : match.end + match.after])


def _dates(start: datetime | None, end: datetime | None) -> str:
    if start and end:
        return f"{start:%Y-%m-%d} to {end:%Y-%m-%d}"
    return f"from {start:%Y-%m-%d}" if start else f"until {end:%Y-%m-%d}"
