"""Instructions made by rule from what stands around a passage: the passage answers them, because they were made from it.

They read as an owner types: "Draft a LinkedIn post about …", with titles, headings, definitions, or the sentence before it.
The answer is the author's text, letter by letter. Phrasings are drawn by seed; none copies a long run of the answer, for a
model trained on that would learn to repeat its prompt.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar, Literal

from pydantic import Field

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.text.overlap import fold_words, has_common_ngram
from llm_engineering.application.text.question_rules import Draft, draft_questions, language_of, strip_markup
from llm_engineering.application.text.sentences import split_units
from llm_engineering.application.text.words import STOP_WORDS, stem
from llm_engineering.application.training.datasets.passages import Passage
from llm_engineering.domain.documents import CleanDocument

Kind = Literal["question", "draft", "section", "sections", "title", "terms", "continue"]

PHRASINGS: dict[str, dict[Kind, tuple[str, ...]]] = {
    "en": {
        "question": (
            "{topic}",
            "{topic} Explain it in the context of “{title}”.",
            "I am reading about “{title}”. {topic}",
        ),
        "draft": (
            "Draft a LinkedIn post about {subject}.",
            "Write a short blog post about {subject}.",
            "What do you think about {subject}?",
            "Explain {subject} to a reader who is new to it.",
            "Write a paragraph on {subject} in my style.",
            "Tell me about {subject}.",
            "Could you draft a text on {subject} for my newsletter?",
            "I need a few paragraphs about {subject}.",
        ),
        "section": (
            "Write the part on “{topic}” of my article “{title}”.",
            "Draft the section “{topic}” for “{title}”.",
            "What should a reader of “{title}” know about “{topic}”?",
            "Explain “{topic}” to a reader of “{title}”.",
            "I am writing “{title}”. What do I say under the heading “{topic}”?",
        ),
        "sections": (
            "Write the part of my article “{title}” that covers {topics}.",
            "For “{title}”: write about {topics}, in this order.",
            "Draft a post on {topics}, from my article “{title}”.",
            "I have a few questions on “{title}”. Tell me about {topics}.",
        ),
        "title": (
            "Write the opening of an article called “{title}”.",
            "Begin my article “{title}”.",
            "Draft the introduction to “{title}”.",
        ),
        "terms": (
            "Draft a LinkedIn post about {subject}.",
            "Write a short post about {subject}.",
            "What do you think about {subject}? Write it as a post.",
        ),
        "continue": (
            "A text on “{topic}” has come to this point: “{before}” Go on writing.",
            "Continue this passage of “{title}”: “{before}”",
            "What comes next in “{title}” after this sentence? “{before}”",
        ),
    },
    "de": {
        "question": ("{topic}", "Ich lese etwas über „{title}“. {topic}"),
        "draft": (
            "Schreibe einen LinkedIn-Beitrag zum Thema {subject}.",
            "Schreibe einen kurzen Blogartikel zum Thema {subject}.",
            "Was denkst du zum Thema {subject}?",
            "Schreibe in meinem Stil einen Absatz zum Thema {subject}.",
        ),
        "section": (
            "Schreibe den Abschnitt „{topic}“ meines Artikels „{title}“.",
            "Erkläre „{topic}“ im Zusammenhang von „{title}“.",
            "Was sollte man bei „{title}“ über „{topic}“ wissen?",
        ),
        "sections": (
            "Schreibe den Teil meines Artikels „{title}“, in dem es um {topics} geht.",
            "Was sollte man bei „{title}“ über {topics} wissen?",
        ),
        "title": (
            "Schreibe den Anfang eines Artikels mit dem Titel „{title}“.",
            "Schreibe die Einleitung zu „{title}“.",
        ),
        "terms": (
            "Schreibe einen LinkedIn-Beitrag über {subject}.",
            "Schreibe einen kurzen Text über {subject}.",
        ),
        "continue": (
            "Setze diese Passage aus „{title}“ fort: „{before}“",
            "Ein Text über „{topic}“ ist an dieser Stelle: „{before}“ Schreibe weiter.",
        ),
    },
}
QUOTES = {"en": ("“", "”"), "de": ("„", "“")}
AND = {"en": "and", "de": "und"}
QUESTION_WORDS = {
    "en": ("what", "why", "how", "when", "where", "who", "which", "is", "are", "do", "does", "can", "should"),
    "de": (
        "was",
        "warum",
        "wie",
        "wann",
        "wo",
        "wer",
        "welche",
        "welcher",
        "welches",
        "ist",
        "sind",
        "kann",
        "soll",
    ),
}
EMPTY_HEADINGS = frozenset(
    """introduction intro summary conclusion conclusions references notes overview contents outline example examples faq
    further reading see also credits acknowledgements appendix einleitung zusammenfassung fazit literatur quellen inhalt
    beispiel beispiele überblick""".split()
)
"""Headings that name a part of a text and no topic."""

DETERMINERS = {
    "en": frozenset(
        """a an the its their his her our your my this these those each every no any some two three four of in for with by
        from on between without into per""".split()
    ),
    "de": frozenset(),
}
"""Words that a noun, or an adjective and its noun, stands behind. German nouns are told by their capital."""


MAX_BEFORE = 320
"""Characters of a sentence that is quoted to be gone on from."""
OPENING_SENTENCES = 4
MAX_TOPICS = 4
_NAMED_TERMS = 2
"""Words that an untitled text is asked for by."""
_TERM = re.compile(r"[^\W\d_][\w’'-]{3,}")
_TOKEN = re.compile(r"[^\W_]+(?:[’'-][^\W_]+)*|[^\w\s]")
_SENTENCE_WORDS = frozenset(
    """also well even still often usually mostly rather quite simply really never always first second third last next
    another something nothing everything someone people thing things time times case cases part parts many much several
    two three four five six seven eight nine ten hundred thousand million need needs needed want wants make makes take
    takes give gives come comes goes going becomes become keep keeps kept different certain same good better best small
    large long short whole every there here where than then this that these those become single enough without within
    heute immer noch schon sehr ganz etwa etwas viele mehrere einige andere anderen wird werden kann können muss müssen
    only once about would could should because before after""".split()
)


class TemplateInstructions(StrictConfig):
    """How instructions are made by rule."""

    RENAMED: ClassVar = {"max_copied_run": "max_ngram_overlap"}

    per_passage: int = Field(default=2, ge=1, le=10)
    """Different ways to ask for one passage."""
    max_ngram_overlap: int = Field(default=6, ge=1)
    """Words in a row that an instruction may share with its answer."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """A way to ask for a passage."""

    text: str
    kind: str
    """``question``, ``section``, ``title`` … or the rule that found a definition or reason."""


def language_for(passage: Passage) -> str | None:
    """Return ``en`` or ``de``; None: there are no phrasings for the passage's language."""
    known = passage.document.language
    if known in PHRASINGS:
        return known
    # A repository's file has the name of its format here, so the text must tell.
    return language_of(passage.text) if known == "und" or len(known) != 2 else None


def write_instructions(
    passage: Passage, config: TemplateInstructions, *, seed: int, rules: tuple[Draft, ...] = ()
) -> list[Instruction]:
    """At most ``per_passage`` instructions, of different kinds first. The same passage and seed give the same.

    Args:
        rules: questions by rule of the passage's document, see :func:`rule_questions`.
    """
    language = language_for(passage)
    if language is None:
        return []
    drawn = random.Random(draw_number(f"{seed}/{passage.name}"))
    found: list[Instruction] = []
    waiting = [list(group) for group in _groups(passage, language, rules, drawn)]
    while waiting and len(found) < config.per_passage:
        for group in waiting:
            one = _next_fit(group, passage, config)
            if one is not None and len(found) < config.per_passage:
                found.append(one)
        waiting = [group for group in waiting if group]
    return found


def rule_questions(document: CleanDocument) -> tuple[Draft, ...]:
    """Return questions that a sentence of a document answers by defining something."""
    # Others are reworded so that a search for them is hard, and German definitions lack their article: neither is how
    # anybody asks.
    return tuple(
        draft for draft in draft_questions(document) if draft.kind == "definition" and draft.language == "en"
    )


def _next_fit(group: list[Instruction], passage: Passage, config: TemplateInstructions) -> Instruction | None:
    while group:
        one = group.pop(0)
        if not has_common_ngram(one.text, passage.text, config.max_ngram_overlap + 1):
            return one
    return None


def _groups(
    passage: Passage, language: str, rules: tuple[Draft, ...], drawn: random.Random
) -> Iterator[list[Instruction]]:
    """Kinds of asking that fit, the most telling first; within each, phrasings in drawn order."""
    title = _tidy(passage.document.title)
    topic = _topic(passage)
    terms = key_terms(passage, language)
    if ruled := [Instruction(draft.question, draft.kind) for draft in _of_the_opening(passage, rules)]:
        yield ruled
    values = {"title": title or topic, "topic": topic, "before": ""}
    covered = _covered(passage)
    if subject := _subject(passage, covered, topic or title, terms, language):
        yield _phrased("draft", language, {**values, "subject": subject}, drawn)
    if len(covered) > 1 and title:
        yield _phrased(
            "sections", language, {**values, "topics": _listed(_quote(covered, language), language)}, drawn
        )
    elif topic and passage.opens_section:
        if _is_question(topic, language):
            yield _phrased("question", language, values, drawn)
        elif title and not _same(topic, title):
            yield _phrased("section", language, values, drawn)
    if title and passage.opens_section and (not topic or _same(topic, title)):
        yield _phrased("title", language, values, drawn)
    before = strip_markup(passage.before)
    if before and len(before) <= MAX_BEFORE and title:
        yield _phrased("continue", language, {**values, "topic": topic or title, "before": before}, drawn)
    if terms and not (title or topic):
        yield _phrased(
            "terms", language, {**values, "subject": _listed(terms[:_NAMED_TERMS], language)}, drawn
        )


def _subject(passage: Passage, covered: list[str], topic: str, terms: list[str], language: str) -> str:
    """What a passage is about, as one types it."""
    headings = covered if len(covered) > 1 else [topic]
    names = [name.partition(": ")[0] for name in headings if _names_subject(name, language)]
    named = names[:_NAMED_TERMS] or [_tidy(passage.document.title).partition(": ")[0]]
    if language != "en":  # a title has its own case and article, so it stays a quotation
        return _listed(_quote(named, language), language) if named != [""] else ""
    plain = [_uncapitalise(name, passage.text) for name in named if name]
    # The heading alone asks for its first passage; what comes later in the section is told apart by what it goes into.
    more = terms[:1] if plain and not passage.opens_section and len(plain) < _NAMED_TERMS else []
    return _listed([*plain, *more], language)


def _names_subject(heading: str, language: str) -> bool:
    """Whether a heading can stand behind "about": it is no clause and no enumeration, and does not begin so itself."""
    words = heading.casefold().split()
    clause = bool({"is", "are"} & set(words)) or bool({"?", ","} & set(heading))
    return (
        bool(words)
        and not clause
        and words[0] not in QUESTION_WORDS[language]
        and words[0] not in ("on", "about", "zu", "zum", "zur", "über")
    )


def _uncapitalise(heading: str, text: str) -> str:
    """A heading within a sentence: small, unless it begins with a name, which the text writes large within a sentence too."""
    first = heading.split()[0]
    name = not first[1:].islower() or re.search(rf"[a-z,] {re.escape(first)}\b", text)
    return heading if name and len(first) > 1 else heading[0].lower() + heading[1:]


def _quote(names: list[str], language: str) -> list[str]:
    opening, closing = QUOTES[language]
    return [f"{opening}{name}{closing}" for name in names]


def _phrased(kind: Kind, language: str, values: dict[str, str], drawn: random.Random) -> list[Instruction]:
    phrasings = list(PHRASINGS[language][kind])
    drawn.shuffle(phrasings)
    return [Instruction(_filled(phrasing, values), kind) for phrasing in phrasings]


def _filled(phrasing: str, values: dict[str, str]) -> str:
    return " ".join(phrasing.format(**values).split())


def _of_the_opening(passage: Passage, rules: tuple[Draft, ...]) -> list[Draft]:
    """Questions that the passage's first sentences answer; one answered in the middle would be answered badly."""
    sentences = [unit for unit in split_units(passage.text) if unit.kind == "sentence"][:2]
    starts = {passage.start + unit.start for unit in sentences}
    return [draft for draft in rules if draft.span.start in starts]


def _topic(passage: Passage) -> str:
    """The innermost heading that names a topic."""
    for heading in reversed(passage.headings):
        tidy = _tidy(heading)
        if tidy and not set(fold_words(tidy)) <= EMPTY_HEADINGS:
            return tidy
    return ""


def _covered(passage: Passage) -> list[str]:
    """Topics of all sections that the passage touches, where there are several; none where they are too many to name."""
    title = _tidy(passage.document.title)
    tidy = [_tidy(section) for section in passage.sections]
    named = [name for name in tidy if name and not _same(name, title)]
    telling = [name for name in named if not set(fold_words(name)) <= EMPTY_HEADINGS]
    return telling if len(telling) <= MAX_TOPICS else []


_NUMBERED = re.compile(
    r"^(?:(?:chapter|part|step|section|kapitel|teil|schritt)\s+)?\d+(?:\.\d+)*[.:)]?\s+", re.I
)


def _tidy(text: str) -> str:
    """A heading as it may be quoted: without Markdown, numbering and quotation marks that would close the quote."""
    bare = _NUMBERED.sub("", strip_markup(text)).strip(" :.#")
    return bare.replace("“", "‘").replace("”", "’").replace("„", "‚")


def _same(topic: str, title: str) -> bool:
    return topic.casefold() == title.casefold()


def _is_question(topic: str, language: str) -> bool:
    return topic.endswith("?") and topic.split()[0].casefold() in QUESTION_WORDS[language]


def key_terms(passage: Passage, language: Literal["en", "de"] | str, most: int = 3) -> list[str]:
    """Return words that a passage is about, as it writes them: among those of its first sentences the most frequent in
    all of it, none that it writes only once.

    Words of its headings are left out, since these are named anyway.
    """
    sentences = [unit for unit in split_units(passage.text) if unit.kind == "sentence"]
    known = {
        stem(word) for heading in (*passage.headings, passage.document.title) for word in fold_words(heading)
    }
    counts = Counter(stem(word.casefold()) for word in _TERM.findall(passage.text))
    nouns = _nouns(passage.text, language)
    found: dict[str, tuple[int, int, str]] = {}
    for unit in sentences[:OPENING_SENTENCES]:
        for match in _TERM.finditer(strip_markup(passage.text[unit.start : unit.end])):
            word = match.group()
            key = stem(word.casefold())
            told = (
                key in nouns and key not in known and key not in found and _tells(word.casefold(), language)
            )
            if told and counts[key] > 1:
                found[key] = (-counts[key], len(found), nouns[key])
    ranked = sorted(found.values())[:most]
    return [shown for _, _, shown in sorted(ranked, key=lambda item: item[1])]


def _nouns(text: str, language: str) -> dict[str, str]:
    """Words that stand where nouns do, as they are written within a sentence, by their roots.

    That is behind an article or preposition, an adjective perhaps between, and before punctuation or a small word; in German
    with a capital within a sentence.
    """
    small, determiners = STOP_WORDS.get(language, frozenset()), DETERMINERS[language]
    found: dict[str, str] = {}
    for unit in split_units(text):
        if unit.kind != "sentence":
            continue
        words = _TOKEN.findall(strip_markup(text[unit.start : unit.end]))
        for number, word in enumerate(words):
            if number == 0 or not _TERM.fullmatch(word):
                continue
            if language == "de":
                stands = word[0].isupper()
            else:
                behind = {before.casefold() for before in words[max(0, number - 2) : number]}
                after = words[number + 1].casefold() if number + 1 < len(words) else "."
                stands = bool(behind & determiners) and (after in small or not after[0].isalnum())
            if stands:
                found.setdefault(stem(word.casefold()), word)
    return found


def _tells(word: str, language: str) -> bool:
    return (
        word not in STOP_WORDS.get(language, frozenset())
        and word not in _SENTENCE_WORDS
        and not word.endswith(("ly", "ing", "ed"))
    )


def _listed(terms: list[str], language: str) -> str:
    if len(terms) < 2:
        return "".join(terms)
    return f"{', '.join(terms[:-1])} {AND.get(language, 'and')} {terms[-1]}"


def draw_number(key: str) -> int:
    """Return 64 bits that depend on the key alone, as good as drawn."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
