"""Describe how each author writes: a voice profile, made from their cleaned prose and kept in the warehouse."""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import log, sqrt
from time import perf_counter
from typing import Any

import numpy as np
from loguru import logger

from llm_engineering.application.failures import round_values
from llm_engineering.application.ports import CleanStore, Progress, SilentProgress, VoiceStore
from llm_engineering.application.text.markdown import Kind, markdown_blocks
from llm_engineering.application.text.style import (
    Paragraphs,
    StyleModel,
    fit_style,
    join_prose,
    pick_evenly,
    split_prose,
)
from llm_engineering.application.text.words import STOP_WORDS, fold_sentence, split_words
from llm_engineering.domain.categories import is_code
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.voices import Exemplar, Spread, VoiceProfile, voice_id

VERSION = "2"
"""Of how profiles are made; a new one makes all of them anew."""
AUTHORS = 50
"""Those who wrote most have a profile, by language: thousands of reviewers need none."""
DOCUMENTS = 300
"""Of one author that are read, evenly spread: more changes no number."""
OTHERS = 300
"""Documents by other people that an author is held against, in all."""
EXEMPLARS = 2
"""For each category."""
_LONGEST_EXEMPLAR = 900
"""Characters; cut at the end of a paragraph."""
_SHOWN = 5
"""First and last sentences that are kept."""
_TERMS = 12
_REPEATED = 3
"""Texts that a sentence stands in from which it says nothing of any of them."""
_MOST_REPEATED = 300
_FEWEST_WORDS = 50
"""An author with fewer has no profile."""
_SILENT = SilentProgress()
_Key = tuple[str, str]
"""An author, and the language that they write in."""

_COUNTED = {
    "commas": re.compile(r",\s"),
    "semicolons": re.compile(r";\s"),
    "colons": re.compile(r":\s"),
    "dashes": re.compile(r"\s[–—-]\s|—"),
    "brackets": re.compile(r"\("),
    "questions": re.compile(r"\?(?=\s|$)"),
    "exclamations": re.compile(r"!(?=\s|$)"),
}
_PERSONS = {
    "i": frozenset(
        "i i'm i've i'd i'll me my mine myself ich mich mir mein meine meinen meinem meiner".split()
    ),
    "we": frozenset(
        "we we're we've we'd we'll us our ours ourselves wir uns unser unsere unseren unserem".split()
    ),
    "you": frozenset(
        "you you're you've you'd you'll your yours du dich dir dein deine deinen deinem".split()
    ),
}


@dataclass(frozen=True, slots=True)
class VoiceReport:
    """What was done about voices."""

    profiles: int
    made: int
    unchanged: int
    deleted: int
    too_little: int
    """Authors, by language, with too little prose."""
    seconds: float

    def to_metadata(self) -> dict[str, Any]:
        """For a run's log and dashboard."""
        return round_values(asdict(self))


@dataclass(frozen=True, slots=True)
class _Prose:
    """The prose of one document."""

    document: CleanDocument
    paragraphs: Paragraphs

    @property
    def text(self) -> str:
        return join_prose(self.paragraphs)


def build_voice_profiles(clean: CleanStore, voices: VoiceStore, progress: Progress = _SILENT) -> VoiceReport:
    """Make the profile of each author and language whose texts have changed; forget those whose texts are gone.

    Raises:
        StoreError: the warehouse cannot be read or written.
    """
    started = perf_counter()
    groups = _group_documents(clean)
    stored = {voice.id: voice.inputs_hash for voice in voices.list_profiles()}
    prose: dict[_Key, list[_Prose]] = {}

    def read(key: _Key) -> list[_Prose]:
        if key not in prose:
            found = clean.get([identifier for identifier, _ in groups[key]])
            prose[key] = [read_prose(document) for document in found]
        return prose[key]

    made: list[VoiceProfile] = []
    kept: set[str] = set()
    too_little = 0
    for key in groups:
        progress.advance("Build voice profiles", total=len(groups))
        author, language = key
        rivals = [other for other in groups if other[1] == language and other[0] != author]
        inputs = _hash_inputs(groups[key], [row for other in rivals for row in groups[other]])
        identifier = voice_id(author, language)
        if stored.get(identifier) != inputs:
            others = [text for other in rivals for text in pick_evenly(read(other), OTHERS // len(rivals))]
            profile = describe_voice(author, language, read(key), others, inputs)
            if profile is None:
                too_little += 1
                continue
            made.append(profile)
        kept.add(identifier)
    voices.put(made)
    deleted = voices.delete([identifier for identifier in stored if identifier not in kept])
    return VoiceReport(
        profiles=len(kept),
        made=len(made),
        unchanged=len(kept) - len(made),
        deleted=deleted,
        too_little=too_little,
        seconds=perf_counter() - started,
    )


def _group_documents(clean: CleanStore) -> dict[_Key, list[tuple[str, str]]]:
    """(id, content hash) of what each author wrote in each language, without code and what says nearly the same; of those
    who wrote most, and evenly spread where there is much."""
    groups_of = {identifier: group for identifier, _, group in clean.list_signatures()}
    versions = dict(clean.list_versions())
    found: dict[_Key, list[tuple[str, str]]] = {}
    seen: set[str] = set()
    for card in clean.list_cards():
        group = groups_of.get(card.id)
        if not card.author or is_code(card.category) or group in seen:
            continue
        if group is not None:
            seen.add(group)
        if card.id in versions:  # it may have gone between two readings
            found.setdefault((card.author, card.language), []).append((card.id, versions[card.id]))
    most = sorted(found, key=lambda key: (-len(found[key]), key))[:AUTHORS]
    return {key: pick_evenly(found[key], DOCUMENTS) for key in sorted(most)}


def read_prose(document: CleanDocument) -> _Prose:
    """Return the prose of a document."""
    return _Prose(document, split_prose(document.text))


def describe_voice(
    author: str, language: str, own: Sequence[_Prose], others: Sequence[_Prose], inputs_hash: str = ""
) -> VoiceProfile | None:
    """Return how an author writes; None where there is too little to tell.

    Args:
        own: their documents, as :func:`read_prose` read them.
        others: documents of other people in the same language, to tell what is theirs alone.
    """
    own = [prose for prose in own if prose.paragraphs]
    text = "\n\n".join(prose.text for prose in own)
    words = split_words(text)
    if len(words) < _FEWEST_WORDS:
        return None
    sentences = [sentence for prose in own for paragraph in prose.paragraphs for sentence in paragraph]
    style = _fit(author, language, own, others)
    return VoiceProfile(
        author=author,
        language=language,
        documents=len(own),
        words=len(words),
        sentence_words=_measure([len(split_words(sentence)) for sentence in sentences]),
        paragraph_sentences=_measure([len(paragraph) for prose in own for paragraph in prose.paragraphs]),
        rates=_count_rates(text, words, [prose.document for prose in own]),
        favoured=tuple(
            word for word in style.find_unusual_words(_TERMS) if word in STOP_WORDS.get(language, ())
        )
        if style is not None and others
        else (),
        terms=_find_terms(own, others, language),
        openers=_pick_sentences([prose.paragraphs for prose in own]),
        closers=_pick_sentences([tuple(p[::-1] for p in prose.paragraphs[::-1]) for prose in own]),
        repeated=_find_repeated(own),
        exemplars=_choose_exemplars(own, style),
        style=None if style is None else style.to_fit(),
        inputs_hash=inputs_hash,
    )


def _pick_sentences(texts: Sequence[Paragraphs]) -> tuple[str, ...]:
    """Of some texts the first whole sentence: neither a label nor a date."""
    whole = (
        next((said for paragraph in text for said in paragraph if said[-1] in ".!?…" and " " in said), "")
        for text in texts
    )
    return tuple(pick_evenly([sentence for sentence in whole if sentence], _SHOWN))


def _fit(author: str, language: str, own: Sequence[_Prose], others: Sequence[_Prose]) -> StyleModel | None:
    try:
        return fit_style(
            f"{author} ({language})", [prose.text for prose in own], [prose.text for prose in others]
        )
    except InvalidInputError as error:
        logger.debug("No style score: {}", error)
        return None


def _measure(values: Sequence[int]) -> Spread:
    low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
    return Spread(low=float(low), median=float(median), high=float(high))


def _count_rates(text: str, words: Sequence[str], documents: Sequence[CleanDocument]) -> dict[str, float]:
    """How often things come in 1,000 words."""
    counts = {name: len(pattern.findall(text)) for name, pattern in _COUNTED.items()}
    counts["emoji"] = sum(unicodedata.category(character) == "So" for character in text)
    spoken = Counter(words)
    counts |= {name: sum(spoken[word] for word in group) for name, group in _PERSONS.items()}
    blocks = [block for document in documents for block in markdown_blocks(document.text)]
    counts["headings"] = sum(block.kind is Kind.HEADING for block in blocks)
    return {name: round(1_000 * count / len(words), 2) for name, count in counts.items()}


def _find_terms(own: Sequence[_Prose], others: Sequence[_Prose], language: str) -> tuple[str, ...]:
    """Words that mark the author's texts: log-odds against the others', with a prior from both together.

    B. Monroe, M. Colaresi & K. Quinn, "Fightin' Words", *Political Analysis* 16(4), 2008, equations 15 to 22.
    """
    stop = STOP_WORDS.get(language, frozenset())

    def count(texts: Iterable[_Prose]) -> Counter[str]:
        said = (word for prose in texts for word in split_words(prose.text))
        return Counter(word for word in said if len(word) > 3 and word not in stop and word.isalpha())

    mine, theirs = count(own), count(others)
    both = mine + theirs
    total, own_total, other_total = both.total(), mine.total(), theirs.total()
    if not own_total:
        return ()
    in_documents = Counter(word for prose in own for word in set(split_words(prose.text)))

    def tell(word: str) -> float:
        prior = both[word]
        here = log((mine[word] + prior) / (own_total + total - mine[word] - prior))
        there = log((theirs[word] + prior) / (other_total + total - theirs[word] - prior))
        return (here - there) / sqrt(1 / (mine[word] + prior) + 1 / (theirs[word] + prior))

    # A word of one text only tells of its subject, not of the author.
    several = [word for word in mine if in_documents[word] > 1 or len(own) == 1]
    return tuple(sorted(several, key=lambda word: (-tell(word), word))[:_TERMS])


def _find_repeated(own: Sequence[_Prose]) -> tuple[str, ...]:
    """Sentences of several texts, those of most texts first."""
    counts = Counter(
        said
        for prose in own
        for said in {fold_sentence(sentence) for paragraph in prose.paragraphs for sentence in paragraph}
        if said.count(" ") >= 3
    )
    return tuple(said for said, count in counts.most_common(_MOST_REPEATED) if count >= _REPEATED)


def _choose_exemplars(own: Sequence[_Prose], style: StyleModel | None) -> tuple[Exemplar, ...]:
    """The texts of each category that score highest against the author's own style, cut to a few paragraphs."""
    by_category: dict[str, list[_Prose]] = {}
    for prose in own:
        by_category.setdefault(prose.document.category, []).append(prose)
    chosen: list[Exemplar] = []
    for category, texts in sorted(by_category.items()):
        ranked = sorted(texts, key=lambda prose: (-_rank(prose, style), prose.document.id))
        chosen += [
            Exemplar(
                document_id=prose.document.id,
                category=category,
                title=prose.document.title,
                text=_shorten(prose),
            )
            for prose in ranked[:EXEMPLARS]
        ]
    return tuple(chosen)


def _rank(prose: _Prose, style: StyleModel | None) -> float:
    scored = style.score(prose.text) if style is not None else None
    return scored.score if scored is not None else 0.0


def _shorten(prose: _Prose) -> str:
    paragraphs = [" ".join(sentences) for sentences in prose.paragraphs]
    kept, length = paragraphs[:1], len(paragraphs[0])
    for paragraph in paragraphs[1:]:
        length += len(paragraph) + 2
        if length > _LONGEST_EXEMPLAR:
            break
        kept.append(paragraph)
    text = "\n\n".join(kept)
    return (
        text if len(text) <= 2 * _LONGEST_EXEMPLAR else text[: 2 * _LONGEST_EXEMPLAR].rsplit(" ", 1)[0] + " …"
    )


def _hash_inputs(own: Sequence[tuple[str, str]], others: Sequence[tuple[str, str]]) -> str:
    """What a profile is made from, in short."""
    return hashlib.sha256(json.dumps([VERSION, sorted(own), sorted(others)]).encode()).hexdigest()
