"""What in a sentence must not be taken lightly: its numbers, its names, and whether it says that something is not so."""

import re
from dataclasses import dataclass

from llm_engineering.application.text.words import content_stems, language_of, split_words, stem
from llm_engineering.domain.retrieval import Verdict

_NUMBER = re.compile(r"\d+(?:[.,\u00a0\u202f'’]\d+)*")
_THIN = re.compile(r"[\u00a0\u202f'’]")
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:[.,]\d{3})+")
_LIST_NUMBER = re.compile(r"^\s*(?:[-*+•>]\s+)*\d{1,3}[.)]\s+")
_SPELLED = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "hundred": 100, "thousand": 1000, "million": 1_000_000,
    "null": 0, "eins": 1, "zwei": 2, "drei": 3, "vier": 4, "fünf": 5, "sechs": 6, "sieben": 7, "acht": 8, "neun": 9,
    "zehn": 10, "elf": 11, "zwölf": 12, "hundert": 100, "tausend": 1000,
    "deux": 2, "trois": 3, "quatre": 4, "cinq": 5, "dos": 2, "tres": 3, "cuatro": 4, "cinco": 5,
}  # fmt: skip
_NEGATION = re.compile(
    r"\b(?:not(?!\s+(?:only|just|merely))|never|no(?!\s*\.)|none|nobody|nothing|neither|nor|without|cannot|hardly|\w+n['’]t"
    r"|nicht(?!\s+nur)|nie|niemals|niemand|nichts|ohne|weder|kein\w*|unmöglich|impossible|unable"
    r"|ne\b.{1,20}\bpas|jamais|aucune?|sans|nunca|ningun[ao]?|sin|senza|mai|nessun\w*|sem|nenhum\w*|geen|niet|nooit|zonder"
    r"|не|нет|без)\b|没有|不|ない|ません",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"[,;:—–]\s|\b(?:but|although|whereas|while|however|aber|sondern|obwohl|während|mais|pero|ma)\b"
)
_TOKEN = re.compile(r"[^\W_]+(?:[-.'’][^\W_]+)*")
_STRIPPED = re.compile(r"^[\s>*_#`\-+•\"'“”„«»(]+|[\s.!?…。！？*_`\"'“”«»)]+$")


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of an answer, prepared for holding it against the sources."""

    text: str
    """Without list marks and full stop, so that a sentence and its part before a citation are one text."""
    roots: frozenset[str]
    numbers: frozenset[str]
    names: frozenset[str]
    """Roots of the names: capitalised words inside the sentence, acronyms, words with digits."""
    negated: bool
    subject: str | None
    """Root of the first word, where that carries content: what the sentence is about, in most."""


def extract_claim(sentence: str) -> Claim:
    """Prepare a sentence; citation markers must be gone."""
    bare = _STRIPPED.sub("", _LIST_NUMBER.sub("", " ".join(sentence.split())))
    roots = content_stems(bare)
    first = next(iter(split_words(bare)), "")
    return Claim(
        bare,
        roots,
        find_digits(bare),
        _names(bare),
        _NEGATION.search(bare) is not None,
        stem(first) if stem(first) in roots else None,
    )


def find_digits(text: str) -> frozenset[str]:
    """Return numbers written in digits, in one spelling: 1,000 and 1'000 are 1000, 3,5 is 3.5, 2.50 is 2.5."""
    return frozenset(_canonical(match.group()) for match in _NUMBER.finditer(text))


_LETTERS = re.compile(r"[^\W\d_]+")


def find_numbers(text: str) -> frozenset[str]:
    """Return numbers that a source holds, those in words too, so that "3 steps" finds "three steps"."""
    spelled = {str(_SPELLED[word]) for word in _SPELLED.keys() & set(_LETTERS.findall(text.casefold()))}
    both = {_canonical(match.group(), comma=True) for match in _NUMBER.finditer(text)}
    return find_digits(text) | both | frozenset(spelled)


def _canonical(number: str, *, comma: bool = False) -> str:
    """``comma``: read separators as decimal points even before three digits: 3,125 is two numbers in two languages."""
    digits = _THIN.sub("", number)
    if _GROUPED.fullmatch(digits) and not comma:
        digits = re.sub("[.,]", "", digits)
    whole, point, fraction = digits.replace(",", ".").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    return f"{whole}{point}{fraction}" if fraction else whole


def _names(text: str) -> frozenset[str]:
    found = [(match.group(), match.start()) for match in _TOKEN.finditer(text)]
    # German writes every noun with a capital: there, only what is written like a name anywhere counts.
    nouns = language_of(split_words(text)) == "de"
    names: set[str] = set()
    for position, (word, start) in enumerate(found):
        marked = (any(c.isdigit() for c in word) and any(c.isalpha() for c in word)) or any(
            c.isupper() for c in word[1:]
        )
        begins = position == 0 or text[:start].rstrip()[-1:] in ".!?:"
        if marked or (word[0].isupper() and not begins and not nouns):
            names |= content_stems(word)
    return frozenset(names)


def agrees_on_negation(claim: Claim, text: str) -> bool:
    """Return whether a sentence and what backs it agree on whether it is so. The text's clause that is nearest decides."""
    if not _NEGATION.search(text):  # most texts
        return not claim.negated
    clauses = [part for part in _CLAUSE.split(text) if part and part.strip()]
    if claim.negated and any(_NEGATION.search(part) for part in clauses):
        return not _swapped(claim, text)
    shared = [len(claim.roots & content_stems(part)) for part in clauses]
    nearest = [part for part, count in zip(clauses, shared, strict=True) if count == max(shared)]
    # Equally near clauses: one that is not negated is enough for a sentence that is not.
    return any((_NEGATION.search(part) is not None) == claim.negated for part in nearest)


def _swapped(claim: Claim, text: str) -> bool:
    """Whether both deny something, but the sentence denies what the text states: "time and not memory" for "memory and
    not time"."""
    here, there = _denied(claim.text), _denied(text)
    return bool(here) and not here & there and here <= content_stems(text) - there


def _denied(text: str) -> frozenset[str]:
    """Roots of the first word that carries content behind each negation."""
    behind = (content_stems(" ".join(text[match.end() :].split()[:2])) for match in _NEGATION.finditer(text))
    return frozenset().union(*behind)


def downgrade(verdict: Verdict) -> Verdict:
    """Return the verdict one step down."""
    return Verdict.PARTIAL if verdict is Verdict.SUPPORTED else Verdict.UNSUPPORTED
