"""Questions by rule: a sentence that defines, gives a reason, a condition or a purpose can be asked for.

No model is needed and none is trusted. The patterns are narrow on purpose: what they do not understand they leave, and
each question still has to pass :mod:`checks <llm_engineering.application.evaluation.rag.make_questions>`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from llm_engineering.application.text.markdown import Block, Kind, markdown_blocks, sentence_starts
from llm_engineering.application.text.overlap import content_words, reword
from llm_engineering.domain.documents import CleanDocument, Span

SHORTEST, LONGEST = 40, 350
"""Characters of a sentence that a question is made from."""
MAX_CLAUSE_WORDS = 14

_MARKUP = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|<[^>]{1,20}>|[`*_]+")
_ITEM = re.compile(r"(?:[-*+•]|\d{1,3}[.)])\s+")
_UNCLEAR = re.compile(
    r"\b(?:it|its|they|them|their|this|that|these|those|he|him|his|she|her|here|there|then|such|both|former|latter|above"
    r"|below|following|one|ones)\b",
    re.IGNORECASE,
)
_UNCLEAR_DE = re.compile(
    r"\b(?:er|sie|es|dies|diese|dieser|dieses|diesem|diesen|hier|dort|dann|ihn|ihm|ihnen|ihre?|ihren|sein|seine?|seinen)\b",
    re.IGNORECASE,
)
_NO_SUBJECT = re.compile(r"(?:you|your|I|we|\w+ing|\w+ed|un\w+)\b", re.IGNORECASE)
"""Clauses that begin so ask nothing that one document answers ("if you want more"), or lack their subject ("when asked")."""
_VAGUE = re.compile(
    r"(?:first|second|third|fourth|fifth|last|next|other|same|fewer|more|most|what|question|answer|point|idea|goal|result"
    r"|reason|problem|thing|way|step|jump|rest|equal|each|every|all|some|another|only|best|main|twenty|thirty|forty|fifty"
    r"|sixty|today|now|who|whoever|where|when|to|how|why|nothing|something)\b",
    re.IGNORECASE,
)
_PERSONAL = re.compile(r"\b(?:you|your|yours|I|me|my|we|us|our)\b", re.IGNORECASE)
MIN_DESCRIPTION = 3
"""Content words that must describe a thing before its name can be asked for."""
_ODD = re.compile(r"[()\"“”\[\]|<>=\\\U0001D400-\U0001D7FF]")
_LANGUAGE_WORDS = {
    "en": frozenset(
        "the a an is are of and to in that it for with as on be this by not or from at to".split()
    ),
    "de": frozenset(
        "der die das ein eine ist sind und zu in den dem mit auf nicht von für es im sich wird".split()
    ),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """A question made from a sentence, not yet checked."""

    question: str
    kind: str
    answer: str
    """The words that answer it, in the sentence's own."""
    span: Span
    """Of the sentence, in the cleaned text."""
    block: Span
    """Of the paragraph around it."""
    headings: tuple[str, ...]
    language: str


def draft_questions(document: CleanDocument) -> Iterator[Draft]:
    """Yield all questions that the rules make of a document, in the order of its text. Code and tables make none."""
    for block in markdown_blocks(document.text):
        if block.kind is Kind.HEADING or block.kind is Kind.CODE or block.kind is Kind.TABLE:
            continue
        for span in _sentences(document.text, block):
            sentence = strip_markup(document.text[span.start : span.end])
            language = language_of(sentence)
            if not SHORTEST <= len(sentence) <= LONGEST or language is None or sentence.endswith("?"):
                continue
            for kind, rule in _RULES[language]:
                made = rule(sentence)
                if made is not None:
                    question, answer = made
                    around = Span(start=block.start, end=block.end)
                    yield Draft(question, kind, answer, span, around, block.path, language)


def strip_markup(text: str) -> str:
    """Return a sentence without Markdown's marks, its white space folded."""
    bare = " ".join(_MARKUP.sub(lambda match: match.group(1) or "", text).split())
    return _ITEM.sub("", bare, count=1) if _ITEM.match(bare) else bare


def language_of(text: str) -> str | None:
    """Return ``en`` or ``de`` by the small words that only one of them has; None where that does not decide."""
    words = re.findall(r"\w+", text.casefold())
    counts = {code: sum(word in known for word in words) for code, known in _LANGUAGE_WORDS.items()}
    best = max(counts, key=lambda code: counts[code])
    others = max(value for code, value in counts.items() if code != best)
    return best if counts[best] > others else None


def _sentences(text: str, block: Block) -> Iterator[Span]:
    starts = [block.start, *sentence_starts(text, block.start, block.end), block.end]
    for start, stop in pairwise(starts):
        end = start + len(text[start:stop].rstrip())
        if end > start:
            yield Span(start=start, end=end)


Rule = Callable[[str], tuple[str, str] | None]

_DEFINITION = re.compile(
    r"(?:(?P<article>A|An|The)\s+)?(?P<term>\w[\w-]*(?:\s+[\w-]+){0,3}?)(?:\s*\([^)]{1,30}\))?\s+"
    r"(?P<verb>is|are|means|refers to)\s+(?P<rest>(?:an?|the|any|when|where|how)\s+\w.{20,})[.!]"
)
_CONDITION = re.compile(
    r"(?:If|When|Once|Unless)\s+(?P<clause>[^,;:]{12,}),\s+(?:then\s+)?(?P<rest>[^?]{15,})[.!]"
)
_TRAILING_CONDITION = re.compile(
    r"(?P<rest>[A-Z][^,;:?]{15,}?),?\s+(?:if|when)\s+(?P<clause>[^,;:]{12,})[.!]"
)
_REASON = re.compile(
    r"(?P<claim>[A-Z][^,;:?]{12,}?),?\s+(?:because|since|so that|as otherwise)\s+(?!of\b)(?P<rest>[^?]{12,})[.!]"
)
_PURPOSE = re.compile(r"(?:In order to|To)\s+(?P<aim>[a-z][^,;:]{8,}),\s+(?P<rest>[^?]{15,})[.!]")
_DEFINITION_DE = re.compile(
    r"(?:(?:Ein|Eine|Der|Die|Das)\s+)?(?P<term>[A-ZÄÖÜ][\w-]*(?:\s+[\w-]+){0,2}?)\s+(?P<verb>ist|sind)\s+"
    r"(?P<rest>(?:eine?|der|die|das)\s+\w.{20,})[.!]"
)
_CONDITION_DE = re.compile(
    r"(?:Wenn|Sobald|Falls)\s+(?P<clause>[^,;:]{12,}),\s+(?:(?:so|dann)\s+)?(?P<rest>[^?]{15,})[.!]"
)


def _definition(sentence: str) -> tuple[str, str] | None:
    match = _DEFINITION.fullmatch(sentence)
    if match is None or not _names(match):
        return None
    verb = "are" if match["verb"] == "are" else "is"
    article = f"{match['article'].lower()} " if match["article"] else ""
    return f"What {verb} {article}{_lowered(match['term'])}?", match["rest"]


def _term(sentence: str) -> tuple[str, str] | None:
    match = _DEFINITION.fullmatch(sentence)
    if match is None or match["verb"] not in ("is", "are") or not _names(match):
        return None
    described = re.split(r"[,;:]", match["rest"])[0]
    enough = len(content_words(described)) >= MIN_DESCRIPTION
    if (
        not enough
        or not _clear(described, MAX_CLAUSE_WORDS)
        or not described.startswith(("a ", "an ", "the "))
    ):
        return None
    return reword(f"What is the name for {described}?"), match["term"]


def _names(match: re.Match[str]) -> bool:
    """Whether a definition's subject means something by itself: "the store" does not, "HNSW" and "overlap" do."""
    term = match["term"]
    article = match["article"]
    # "The model" is one that was spoken of before; without an article, a term begins a sentence.
    contextual = term.islower() if article == "The" else not article and not term[0].isupper()
    return _clear(term, 4) and not contextual and not _VAGUE.match(term)


def _condition(sentence: str) -> tuple[str, str] | None:
    match = _CONDITION.fullmatch(sentence) or _TRAILING_CONDITION.fullmatch(sentence)
    if match is None or not _clear(match["clause"], MAX_CLAUSE_WORDS) or _NO_SUBJECT.match(match["clause"]):
        return None
    return reword(f"What happens if {match['clause'].strip()}?"), match["rest"]


def _reason(sentence: str) -> tuple[str, str] | None:
    match = _REASON.fullmatch(sentence)
    if match is None or not _clear(match["claim"], MAX_CLAUSE_WORDS):
        return None
    return reword(f"Why is it that {_lowered(match['claim'].strip())}?"), match["rest"]


def _purpose(sentence: str) -> tuple[str, str] | None:
    match = _PURPOSE.fullmatch(sentence)
    if (
        match is None
        or not _clear(match["aim"], MAX_CLAUSE_WORDS)
        or match["aim"].startswith(("be ", "the "))
        or _PERSONAL.search(match["aim"])
        or len(content_words(match["aim"])) < MIN_DESCRIPTION
    ):
        return None  # "to begin our exploration" stands in a hundred articles
    return reword(f"How can somebody {match['aim'].strip()}?"), match["rest"]


def _definition_de(sentence: str) -> tuple[str, str] | None:
    match = _DEFINITION_DE.fullmatch(sentence)
    if match is None or not _clear(match["term"], 3, _UNCLEAR_DE):
        return None
    return f"Was {match['verb']} {match['term']}?", match["rest"]


def _condition_de(sentence: str) -> tuple[str, str] | None:
    match = _CONDITION_DE.fullmatch(sentence)
    if match is None or not _clear(match["clause"], MAX_CLAUSE_WORDS, _UNCLEAR_DE):
        return None
    return f"Was geschieht, wenn {match['clause'].strip()}?", match["rest"]


_RULES: dict[str, tuple[tuple[str, Rule], ...]] = {
    "en": (
        ("definition", _definition),
        ("term", _term),
        ("condition", _condition),
        ("reason", _reason),
        ("purpose", _purpose),
    ),
    "de": (("definition", _definition_de), ("condition", _condition_de)),
}


def _clear(text: str, most_words: int, unclear: re.Pattern[str] = _UNCLEAR) -> bool:
    """Whether a clause can stand in a question alone: short, and nothing in it points at what stands elsewhere."""
    return len(text.split()) <= most_words and not unclear.search(text) and not _ODD.search(text)


def _lowered(text: str) -> str:
    """Without the capital of a sentence's first word, unless the word is a name by its looks."""
    first = text.split()[0]
    looks_like_name = any(letter.isupper() or letter.isdigit() for letter in first[1:]) or len(first) == 1
    return text if looks_like_name and first not in ("A", "I") else text[0].lower() + text[1:]
