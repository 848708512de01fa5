"""How much of one text stands in another, how much a text repeats itself, and other words for common ones."""

import re
from collections import Counter
from collections.abc import Iterator

from llm_engineering.application.text.words import STOP_WORDS, split_words, stem
from llm_engineering.domain.documents import Span

_SMALL = STOP_WORDS["en"] | STOP_WORDS["de"]
_WORD = re.compile(r"\w+(?:['’]\w+)?")

_ARTICLE = re.compile(r"\b([aA])n? (\w+)")

_ALIKE = """
avoid=prevent; big=large; large=big; small=little; little=small; quick=fast; fast=quick; faster=quicker; slow=sluggish;
slower=more sluggish; often=frequently; rarely=seldom; usually=normally; mostly=mainly; enough=sufficient; many=numerous;
important=essential; necessary=required; needed=required; simple=easy; easy=simple; difficult=hard;
correct=right; useful=helpful; helpful=useful; whole=entire; entire=whole; common=widespread;
different=other; similar=alike; equal=the same; expensive=costly; cheap=inexpensive; cheaper=less costly;
new=recent; huge=enormous; rare=uncommon; safe=secure; clear=obvious; sure=certain;
begin=start; begins=starts; start=begin; starts=begins; end=finish; ends=finishes; stop=halt; stops=halts; keep=retain;
keeps=retains; kept=retained; make=create; makes=creates; made=created; build=construct; builds=constructs;
built=constructed; create=produce; creates=produces; created=produced; get=obtain; gets=obtains; give=provide;
gives=provides; take=need; takes=needs; show=display; shows=displays; help=assist;
helps=assists; change=alter; changes=alters; changed=altered; grow=increase; grows=increases; shrink=get smaller;
shrinks=gets smaller; remove=delete; removes=deletes; removed=deleted; delete=remove; deleted=removed; add=append;
adds=appends; added=appended; choose=select; chosen=selected; chooses=selects; find=discover; finds=discovers;
check=verify; checks=verifies; checked=verified; measure=gauge; measured=gauged; use=employ;
uses=employs; used=employed; using=employing; send=transmit; sends=transmits; receive=get; receives=gets;
contain=hold; contains=holds; split=divide;
splits=divides; cut=divided; join=combine; joins=combines; combine=join; combined=joined; compare=contrast; compute=calculate;
computed=calculated; computes=calculates; happen=occur;
happens=occurs; occur=happen; occurs=happens; need=require; needs=requires; require=need; requires=needs; allow=permit;
allows=permits;  improve=enhance; improves=enhances; reduce=lower; reduces=lowers; increase=raise;
increases=raises; explain=describe; explains=describes; describe=explain; describes=explains; ensure=guarantee;
ensures=guarantees; handle=deal with; handles=deals with; run=execute; runs=executes; deploy=roll out;
deployed=rolled out; learn=pick up; learns=picks up; generate=produce; generates=produces;
generated=produced; retrieve=fetch; retrieves=fetches; retrieved=fetched;
error=mistake; errors=mistakes; problem=issue; problems=issues; way=manner; method=approach;
methods=approaches; approach=method; part=portion; parts=portions; number=count; amount=quantity; goal=aim; reason=cause;
result=outcome; results=outcomes; example=instance; people=persons; user=person; company=firm;
companies=firms; job=task; task=job; tasks=jobs; piece=fragment;
pieces=fragments; several=a few; each=every;
every=each; also=too; quickly=fast; directly=straight; together=jointly; always=invariably;
without=lacking
"""
_OTHER_WORDS = {
    left.strip(): right.strip()
    for left, _, right in (entry.partition("=") for entry in _ALIKE.split(";") if entry.strip())
}


def content_words(text: str) -> frozenset[str]:
    """Return the stems of the words that carry content, the same for a clause as for the passage around it: which small
    words are left out does not depend on the language that a text seems to be in."""
    return frozenset(stem(word) for word in split_words(text) if word not in _SMALL and len(word) > 1)


def reword(text: str) -> str:
    """Return the text with other words for common ones, so that a search for the passage is more than looking up its
    words.

    Meaning is kept roughly, grammar mostly; what matters is that the question is not a copy.
    """
    other = _WORD.sub(lambda match: _like(match.group(), _OTHER_WORDS.get(match.group().casefold())), text)
    return _ARTICLE.sub(
        lambda match: f"{match[1]}{'n' if match[2][0] in 'aeiouAEIOU' else ''} {match[2]}", other
    )


def _like(word: str, other: str | None) -> str:
    if other is None or word.isupper():
        return word
    return other[0].upper() + other[1:] if word[0].isupper() else other


def measure_copying(question: str, passage: str) -> float:
    """Return share of the question's content words that stand in the passage, 0 to 1."""
    asked = content_words(question)
    return len(asked & content_words(passage)) / len(asked) if asked else 0.0


def longest_copy(question: str, passage: str) -> int:
    """Return length, in words, of the longest run of the question that stands in the passage word by word.

    Longest common substring over words, ``O(|question| · |passage|)``.
    """
    asked, there = list(fold_words(question)), list(fold_words(passage))
    longest = 0
    above = [0] * (len(there) + 1)
    for word in asked:
        row = [0] * (len(there) + 1)
        for column, other in enumerate(there, start=1):
            if word == other:
                row[column] = above[column - 1] + 1
                longest = max(longest, row[column])
        above = row
    return longest


def fold_words(text: str) -> Iterator[str]:
    """Yield the words of a text, case folded, in order."""
    for match in _WORD.finditer(text):
        yield match.group().casefold()


def find_quote(text: str, quote: str) -> Span | None:
    """Return the first place of the quote's words in the text, whatever white space stands between them; None: nowhere."""
    words = quote.split()
    if not words:
        return None
    match = re.search(r"\s+".join(re.escape(word) for word in words), text)
    return Span(start=match.start(), end=match.end()) if match else None


def has_common_ngram(text: str, other: str, length: int) -> bool:
    """Return whether so many words in a row stand in both. Linear, where ``longest_copy`` is quadratic."""
    runs = set(_runs(text, length))
    return any(run in runs for run in _runs(other, length))


def _runs(text: str, length: int) -> Iterator[tuple[str, ...]]:
    words = list(fold_words(text))
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))


_REPEATED_WORDS = 4

_LEAST_RUNS = 20


def measure_repetition(text: str) -> float:
    """Return share of a text's four-word runs that have stood before in it; 0 for texts of fewer than 20 runs."""
    found = split_words(text)
    runs = [tuple(found[i : i + _REPEATED_WORDS]) for i in range(len(found) - _REPEATED_WORDS + 1)]
    if len(runs) < _LEAST_RUNS:
        return 0.0
    return sum(count - 1 for count in Counter(runs).values()) / len(runs)
