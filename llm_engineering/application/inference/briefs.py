"""Read what is to be written: the form, the subject, in whose voice, and what for a given text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llm_engineering.application.inference.events import LEAST_WORDS, NO_OPTIONS, BriefOptions
from llm_engineering.application.inference.periods import NUMBER_WORDS
from llm_engineering.application.inference.scope import find_authors
from llm_engineering.application.ports import Message
from llm_engineering.domain.inference import Intent
from llm_engineering.domain.voices import VoiceProfile

_ABOUT = re.compile(
    r"\b(?:about|regarding|concerning|discussing|covering|describing|explain(?:ing|s)|announc(?:ing|es)|summari[sz]ing"
    r"|on(?:\s+the\s+(?:topic|subject)\s+of)?"
    r"|über|zum?\s+thema|zu[rm]?)\s+(?P<subject>.+)$",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"\s*(?:[?!]+(?:\s.*)?|[.;]\s.*|\.|,\s+(?:(?:about|as|at|for|in|max|no|please|short|under|using|with|written)"
    r"|(?:auf|bitte|etwa|für|höchstens|im|in|kurz|mit))\b.*|\b(?:in|with|im|mit)\s+(?:my|the|a|an|our|\w+(?:\s+\w+)?['’]s|meinem|meiner|dem|einem|\w+s)"
    r"\s+(?:\w+\s+)?(?:style|voice|tone|words|stil|ton|stimme)\b.*"
    r"|\b(?:the\s+way|as|wie)\s+\w+(?:\s+\w+)?\s+(?:would|würde)\b.*"
    r"|\b(?:for|für)\s+(?:my|our|the|meine|unsere|die)\s+(?:readers?|team|audience|followers|leser\w*|newsletter)\b.*"
    r"|\b(?:say|says|think|thinks|write|writes|wrote|said|schreiben|schreibt|sagen|sagt|denken|geschrieben)\b.*)$",
    re.IGNORECASE | re.DOTALL,
)
_REQUEST_WORDS = frozenset(
    "a about according all an and any are article articles as author authors between blog both brief bullet bullets can "
    "compare comparison contrast could did differ difference differences disagree agree do does draft each email essay "
    "everything five for four from give gist have her his how i in into is it key letter linkedin long main me my newsletter of "
    "on one or our out outline overview piece please point points post posts put quick recap rewrite say says sentence "
    "sentences she he they short side so sum summarise summarize summary takeaways tell text texts than that the their "
    "them there these thread three tl tl;dr dr tldr take takes tweet-length by opinion turn this to tweet tweets two up "
    "us view views voice style was we what where which who wise with words write written wrote you your nutshell boil "
    "down condense alle als artikel auf aus beitrag beiträge bitte das dem den der des die ein eine einem einen einer "
    "entwurf er es fass fasse für ganz gegenüber geschrieben gib hat ich ihr im ist kannst kurz kurze mach mein meine "
    "meinem meinen mir mit oder schreib schreibe schreibt sich sie sind stell texte thema über überblick und "
    "unterscheiden unterschied unterschiede verfasse vergleich vergleiche von wer wie wichtigsten wo worin würde zu zum "
    "zur zusammen zusammenfassung punkte aussagen kernaussagen meinung ".split()
)
_CLAUSE = re.compile(
    r"(?:what|how|why|was|wie|warum)\s+(?P<subject>.{2,60}?)\s+(?:is|are|means?|works?|ist|sind|bedeutet|funktioniert)\b.*$",
    re.IGNORECASE,
)
"""What a thing is, for the thing."""
_THINGS = re.compile(
    r"(?:.*\b(?:between|compare|contrast|zwischen|vergleiche?)\s+)?(?P<one>[^,:;?!]{2,60}?)\s+"
    r"(?:vs\.?|versus|and|with|to|or|differs?\s+from|und|mit|oder|gegenüber|von)\s+(?P<other>[^,:;?!]{2,60}?)"
    r"(?=\s+(?:according|as|for|in|from|laut|nach|by)\b|[?!.,;:]|$)",
    re.IGNORECASE,
)
_GIVEN = re.compile(
    r"(?<!\babout\s)(?<!\bon\s)(?<!\büber\s)(?<!\bthema\s)[“\"„«»](?P<quoted>[^“”\"„«»]{12,})[”\"“»«]"
    r"|\b(?:this|these|following|rewrite|rephrase|reword|dies\w*|folgend\w*|umschreib\w*|formuliere)\b[^:]*:\s+(?P<rest>\S.{12,})$",
    re.DOTALL | re.IGNORECASE,
)
"""A text to be rewritten: neither a subject in quotation marks, nor a title with a colon."""
_FORMS: tuple[tuple[str, str, str, int], ...] = (
    ("thread", r"\bthreads?\b", "a thread of {count} short messages, numbered 1/, 2/ and so on,", 150),
    (
        "tweet",
        r"\btweets?\b|\bshort\s+takes?\b|tweet-length",
        "{count} separate short messages, numbered 1., 2. and so on, each below 280 characters,",
        60,
    ),
    (
        "outline",
        r"\boutlines?\b|\bgliederung\b",
        "an outline in Markdown with headings and bullet points",
        120,
    ),
    ("newsletter", r"\bnewsletters?\b|\brundbrief\b", "the body of a newsletter, without a heading,", 200),
    (
        "email",
        r"\be-?mails?\b|\bmails?\b|\bletter\b",
        "the body of an e-mail, without subject, greeting and signature,",
        130,
    ),
    (
        "title",
        r"\b(?:titles?|headlines?|hooks?|überschriften?|titel)\b",
        "a numbered list of {count} titles",
        50,
    ),
    (
        "article",
        r"\barticles?\b|\bessays?\b|\bblog\b|\bartikel\b",
        "an article in Markdown with a title",
        350,
    ),
    ("post", r"\b(?:linkedin|posts?|beitr[aä]ge?)\b", "a LinkedIn post", 130),
)
_USUAL_FORM = "post"
_WORDS = re.compile(r"\b(\d{2,6}(?:[,.]\d{3})?)[\s-]*(?:words?|wörtern?|worte)\b", re.IGNORECASE)
MOST_WORDS = 800
"""Beyond this a draft is cut to length: no model here keeps a thread for longer."""


@dataclass(frozen=True, slots=True)
class Brief:
    """What is to be written."""

    subject: str
    form: str
    """Name of the form: ``post``, ``article``, ``thread`` …"""
    description: str
    """The form in words, for the prompt."""
    words: int
    count: int = 3
    """Pieces of a thread, tweets or titles."""
    author: str | None = None
    given: str = ""
    """A text to be rewritten."""
    german: bool = False
    things: tuple[str, ...] = ()
    """What is compared, where the subject names it: "GPTQ and GGML"."""
    points: int | None = None
    """Parts of a summary, where few are asked for: "tl;dr", "in three points"."""
    shortened: bool = False
    """More words were asked for than are written."""


def read_brief(
    request: str,
    authors: Sequence[str],
    *,
    intent: Intent = Intent.WRITE,
    me: str | None,
    german: bool,
    continues: bool = False,
    history: Sequence[Message] = (),
    options: BriefOptions = NO_OPTIONS,
) -> Brief:
    """Read a brief from a request.

    Args:
        authors: those whose voice there is.
        intent: what is asked for.
        me: whom "I" and "my" mean.
        continues: the request is about the previous reply.
        options: what need not be read from the words.
    """
    named = find_authors(request, authors)
    given = ""
    if continues:
        given = next((turn.content for turn in reversed(history) if turn.role == "assistant"), "")
    elif (match := _GIVEN.search(request)) is not None and (
        intent is Intent.WRITE or len(match[0].split()) > _WORDS_OF_TITLE
    ):
        given = (match["quoted"] or match["rest"]).strip(' "“”„«»')
    instruction = request.replace(given, "") if given and not continues else request
    form = options.form or _find_form(instruction) or _USUAL_FORM
    description, words = next((text, count) for name, _, text, count in _FORMS if name == form)
    wanted = _WORDS.search(instruction)
    asked = options.words or (int(re.sub(r"\D", "", wanted[1])) if wanted else words)
    return Brief(
        subject=extract_subject(instruction, authors),
        form=form,
        description=description.format(count=_read_count(instruction)),
        words=max(LEAST_WORDS, min(asked, MOST_WORDS)),
        count=_read_count(instruction),
        author=options.author or (named[0] if named else me),
        given=given,
        german=german,
        points=_read_count(instruction) if _FEW_POINTS.search(instruction) else None,
        things=_read_things(instruction, authors) if intent is Intent.COMPARE else (),
        shortened=asked > MOST_WORDS,
    )


_FEW_POINTS = re.compile(
    r"\btl;?dr\b|\bnutshell\b|\b(?:short|brief|quick|kurz\w*)\b|\b(?:points?|bullets?|sentences?|takeaways?|punkte\w*|sätze\w*)\b",
    re.IGNORECASE,
)
_SHORTER = re.compile(
    r"\b(?:short(?:er|en)?|brief\w*|concis\w*|condense|less|cut|too\s+long|kürze\w*|kurz|knapp\w*|zu\s+lang)\b",
    re.IGNORECASE,
)
_LONGER = re.compile(
    r"\b(?:longer|expand|flesh|more\s+detail\w*|too\s+short|länger|ausführlich\w*|zu\s+kurz)\b", re.IGNORECASE
)


def restyle(options: BriefOptions, request: str, message: str) -> BriefOptions:
    """Return the options with the form and length that a message asks for: "shorter", "as a thread".

    Args:
        request: what the text was first asked for with.
    """
    form = _find_form(message)
    now = options.form or _find_form(request) or _USUAL_FORM
    usual = next(words for name, _, _, words in _FORMS if name == (form or now))
    stated = _WORDS.search(message)
    if stated:
        words: int | None = int(re.sub(r"\D", "", stated[1]))
    elif _LONGER.search(message):
        words = 2 * (options.words or usual)
    elif _SHORTER.search(message):
        words = (options.words or usual) // 2
    else:
        words = None if form else options.words
    return replace(options, form=form or options.form, words=words and max(LEAST_WORDS, words))


def _find_form(text: str) -> str | None:
    """The form that words name; None where they name none."""
    return next(
        (name for name, pattern, _, _ in _FORMS if pattern and re.search(pattern, text, re.IGNORECASE)), None
    )


def describe_style(voice: VoiceProfile) -> str:
    """Return the plainest facts of a voice, as an order to whoever writes in it."""
    sentence = voice.sentence_words
    told = [
        f"Sentences of about {sentence.median:.0f} words, mostly {sentence.low:.0f} to {sentence.high:.0f}."
    ]
    for name, words in (("i", "“I”"), ("we", "“we”"), ("you", "“you”")):
        if voice.rates.get(name, 0.0) < _HARDLY_EVER:
            told.append(f"Hardly ever says {words}.")
    absent = [
        name for name in ("emoji", "exclamations", "questions") if voice.rates.get(name, 0.0) < _HARDLY_EVER
    ]
    if absent:
        told.append(f"No {' and no '.join(absent).replace('exclamations', 'exclamation marks')}.")
    return " ".join(told)


_HARDLY_EVER = 0.5
"""In 1,000 words."""


_WORDS_OF_TITLE = 20
"""Words in quotation marks that are a text, and no title."""


def asks_for_difference(message: str) -> bool:
    """Return whether a question is about two things that are held against each other: "how does X differ from Y?"."""
    return _DIFFERENCE.search(message) is not None and bool(_read_things(message, ()))


_DIFFERENCE = re.compile(
    r"\b(?:differences?\s+between|differs?\s+from|unterschiede?\s+zwischen|unterscheidet\s+sich)\b", re.I
)


def _read_things(instruction: str, authors: Sequence[str]) -> tuple[str, ...]:
    """The two things that are to be compared; none where they are people."""
    match = _THINGS.search(instruction)
    if match is None:
        return ()
    found = tuple(extract_subject(match[part], ()) for part in ("one", "other"))
    people = any(
        not thing or find_authors(thing, authors) or thing.casefold() in _REQUEST_WORDS for thing in found
    )
    return () if people else found


def _read_count(instruction: str) -> int:
    """How many pieces are asked for: the first number below 20 in the order; 3 where there is none."""
    words = (
        NUMBER_WORDS.get(word, int(word) if word.isdigit() else 0) for word in instruction.casefold().split()
    )
    return next((count for count in words if 0 < count < 20), 3)


def extract_subject(request: str, authors: Sequence[str]) -> str:
    """Return what a request is about, without the words that ask for it."""
    about = _ABOUT.search(request)
    text = _TAIL.sub("", about["subject"] if about else request)
    if (clause := _CLAUSE.match(text)) is not None:
        text = clause["subject"]
    for name in find_authors(request, authors):
        for part in sorted({name, *name.split()}, key=len, reverse=True):
            text = re.sub(rf"\b{re.escape(part)}(?:['’]?s)?\b", " ", text, flags=re.IGNORECASE)
    kept = (
        text.split()
        if about
        else [w for w in text.split() if w.strip(".,:;?!\"'“”’").casefold() not in _REQUEST_WORDS]
    )
    while kept and kept[0].strip(".,:;").casefold() in {
        "and",
        "und",
        "the",
        "what",
        "was",
        "how",
        "wie",
        "my",
        "mein",
        "meine",
        "article",
        "artikel",
    }:
        kept = kept[1:]
    while kept and kept[-1].casefold() in {"by", "from", "of", "von", "and", "und"}:
        kept = kept[:-1]
    return " ".join(kept).strip(" .,:;?!\"'“”’")
