"""Plan a draft: excerpts of the author's texts, laid out in the parts of the form; where a model may write, the closest sentences
as notes with an order for each part."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llm_engineering.application.inference.briefs import Brief, describe_style
from llm_engineering.application.inference.collection import Collection
from llm_engineering.application.inference.composing import Embed, Order, Outline, Section
from llm_engineering.application.inference.excerpts import choose_excerpts
from llm_engineering.application.inference.outlines import gather_sections, name_text
from llm_engineering.application.inference.quotes import (
    Quotation,
    choose_sentences,
    is_repeated,
    is_torn_out,
    shorten_to_fit,
)
from llm_engineering.application.inference.search import as_passages
from llm_engineering.application.llm import prompts
from llm_engineering.application.text.markdown import strip_markdown
from llm_engineering.application.text.words import content_stems
from llm_engineering.domain.retrieval import Citation, Hit, Passage
from llm_engineering.domain.voices import VoiceProfile

PASSAGES = 12
"""Passages that a draft takes its facts from."""
PARTS = 4
"""Parts of an article, each from a heading of its own."""
_WORDS_OF_NOTE = 20
_WORDS_OF_ITEM = 60
"""Words of a paragraph, of which a message has the first sentences."""
_NOTES = (2, 7)
"""Sentences that the model is given for a part, fewest and most: it keeps to few plain notes better than to passages."""
_LONGEST_ITEM = 260
"""Characters of a message of a thread."""
_TOKENS_PER_WORD = 1.6
_ITEMS = ("thread", "tweet")


def plan_draft(
    brief: Brief,
    found: Mapping[str, Sequence[Hit]],
    collection: Collection,
    embed: Embed,
    *,
    verbatim: bool,
    instructions: str = "",
) -> Outline:
    """Plan a draft from the passages about its subject. Blocking.

    Args:
        found: of each document those about the subject, best first; documents too.
        embed: texts to unit vectors, shape (n, dimension).
        verbatim: of the author's own sentences, word for word, because the model is too small to join them.
        instructions: of the calling application; they stand below the prompt's own rules.

    Raises:
        StoreError: the index or the warehouse cannot be read.
        ModelError: the embedder failed.
    """
    author = brief.author or next(iter(found.values()))[0].chunk.author
    voice = collection.find_voice(author, german=brief.german)
    own = [hit for hits in found.values() for hit in hits if hit.chunk.author == author]
    others = [hits[0] for hits in found.values() if hits[0].chunk.author != author]
    brief = replace(brief, author=author)
    if verbatim:
        by_author = {i: hits for i, hits in found.items() if hits[0].chunk.author == author} or found
        language = "de" if brief.german else "en"
        wanted = {i: h for i, h in by_author.items() if h[0].chunk.language == language} or by_author
        sections = gather_sections(wanted, collection)
        passages = [one for each in sections.values() for one in each]
    else:
        passages = as_passages([*own, *others][:PASSAGES])
    writer = _Writer(brief, author, collection, voice, embed, verbatim=verbatim, instructions=instructions)
    opening, closing = _frame(brief, author)
    if verbatim and brief.form in ("article", "outline"):
        parts = writer.plan_excerpts(passages)
    elif brief.form in ("article", "outline"):
        groups = _group_by_heading(own or others)
        parts = [
            writer.plan_part(
                group,
                words=brief.words // len(groups),
                form="a section of an article, without a heading,",
                heading=f"{chr(10) if place else ''}## {_name(group[0])}\n\n",
            )
            for place, group in enumerate(groups)
        ]
    elif brief.form in _ITEMS:
        parts = writer.plan_items(passages)
    elif verbatim and brief.form == "title":
        names = _choose_titles(brief.subject, passages)[: brief.count]
        opening, parts = "\n".join(f"{n}. {name}" for n, name in enumerate(names, start=1)), []
    else:
        parts = [writer.plan_part(passages, words=brief.words, form=brief.description)]
    notes = ("shortened",) if brief.shortened else ()
    return Outline(opening, tuple(parts), closing, voice=voice, notes=notes, brief=brief)


def _frame(brief: Brief, author: str) -> tuple[str, str]:
    """What stands before and behind the text: the same for everybody, so no model need write it."""
    subject = brief.subject[:1].upper() + brief.subject[1:]
    if brief.form == "email":
        return (
            (f"Betreff: {subject}\n\nHallo,\n\n", f"\nViele Grüße\n{author}\n")
            if brief.german
            else (f"Subject: {subject}\n\nHello,\n\n", f"\nBest regards\n{author}\n")
        )
    return (f"# {subject}\n\n", "") if brief.form in ("article", "outline", "newsletter") else ("", "")


def _group_by_heading(hits: Sequence[Hit]) -> list[list[Passage]]:
    """The passages of the headings that fit best, in the order of the texts that they come from."""
    groups: dict[tuple[str, tuple[str, ...]], list[Hit]] = {}
    for hit in hits:
        groups.setdefault((hit.chunk.document_id, hit.chunk.headings), []).append(hit)
    best = list(groups)[:PARTS]
    first = {document: place for place, (document, _) in reversed(list(enumerate(best)))}
    best.sort(key=lambda key: (first[key[0]], groups[key][0].chunk.position))
    return [as_passages(groups[key][: PASSAGES // 2]) for key in best]


class _Writer:
    """Makes the parts of one draft."""

    def __init__(
        self,
        brief: Brief,
        author: str,
        collection: Collection,
        voice: VoiceProfile | None,
        embed: Embed,
        *,
        verbatim: bool,
        instructions: str,
    ) -> None:
        self._brief = brief
        self._author = author
        self._collection = collection
        self._voice = voice
        self._embed = embed
        self._verbatim = verbatim
        self._instructions = instructions.strip()
        self._repeated = voice.repeated if voice is not None else ()
        self._examples: list[str] | None = None

    def plan_part(self, passages: Sequence[Passage], *, words: int, form: str, heading: str = "") -> Section:
        """A part of the text, from what the passages say of the subject."""
        if self._verbatim:
            notes = [part for run in self._excerpt(passages, words) for part in run]
        else:
            fewest, most = _NOTES
            notes = self._choose(passages, max(fewest, min(most, words // _WORDS_OF_NOTE)))
        return self._section(passages, notes, words=words, form=form, heading=heading)

    def plan_excerpts(self, passages: Sequence[Passage]) -> list[Section]:
        """Excerpts under the headings that they stand under, in the order of their texts."""
        words = max(_WORDS_OF_ITEM, self._brief.words // PARTS)
        runs = self._excerpt(passages, words * PARTS, each=words, most=PARTS)
        if self._brief.form == "outline":
            cut = [[shorten_to_fit(part, _LONGEST_ITEM) for part in run] for run in runs]
            runs = [kept for run in cut if (kept := [part for part in run if part is not None])]
        runs.sort(key=lambda run: (run[0].citation.number, run[0].span.start))
        sections: list[Section] = []
        last = ""
        for run in runs:
            name = _name(run[0].citation.passage)
            heading = f"## {name}\n\n" if name != last else ""
            before, last = "\n" if sections else "", name
            sections.append(self._section(passages, run, words=words, form="", heading=before + heading))
        return sections

    def plan_items(self, passages: Sequence[Passage]) -> list[Section]:
        """The messages of a thread, or separate ones, each from notes of its own."""
        notes = (
            self._excerpt_items(passages)
            if self._verbatim
            else self._choose(passages, 2 * self._brief.count, longest=_LONGEST_ITEM)
        )
        count = max(1, min(self._brief.count, len(notes)))
        mark = f"/{count}" if self._brief.form == "thread" else "."
        return [
            self._section(
                passages,
                share,
                words=35,
                form="one message of at most 250 characters, without hashtags,",
                heading=f"{chr(10) if place else ''}{place + 1}{mark} ",
            )
            for place, share in enumerate(_share_out(notes, count))
        ]

    def _choose(
        self, passages: Sequence[Passage], count: int, *, longest: int | None = None
    ) -> list[Quotation]:
        """The closest sentences."""
        return choose_sentences(
            self._brief.subject,
            _number(passages),
            embed=self._embed,
            count=count,
            longest=longest,
            repeated=self._repeated,
        )

    def _excerpt(
        self, passages: Sequence[Passage], words: int, *, each: int | None = None, most: int = 3
    ) -> list[list[Quotation]]:
        return choose_excerpts(
            self._brief.subject,
            _number(passages),
            embed=self._embed,
            words=words,
            each=each,
            most=most,
            repeated=self._repeated,
        )

    def _excerpt_items(self, passages: Sequence[Passage]) -> list[Quotation]:
        """Beginnings of paragraphs that are short enough for a message; of a thread in their order, else such as stand alone."""
        count, found = self._brief.count, []
        together = self._brief.form == "thread"
        runs = self._excerpt(
            passages,
            count * _WORDS_OF_ITEM,
            each=None if together else _WORDS_OF_ITEM,
            most=count,
        )
        for run in runs:
            for part in run:
                item = shorten_to_fit(part, _LONGEST_ITEM)
                if item is not None and (together or not is_torn_out(item.plain)):
                    found.append(item)
        missing = count - len(found)
        others = self._choose(passages, missing, longest=_LONGEST_ITEM) if missing > 0 else []
        return [*found[:count], *(one for one in others if not is_repeated(one, found))]

    def _section(
        self, passages: Sequence[Passage], notes: Sequence[Quotation], *, words: int, form: str, heading: str
    ) -> Section:
        brief = self._brief
        ordered = not self._verbatim and brief.form != "outline"
        return Section(
            heading=heading,
            question=brief.subject,
            passages=tuple(passages),
            order=self._order(notes, words, form) if ordered else None,
            notes=tuple(notes),
            bullets=brief.form == "outline",
        )

    def _order(self, notes: Sequence[Quotation], words: int, form: str) -> Order:
        brief, said = self._brief, [note.plain for note in notes]
        messages = prompts.render(
            "write",
            1,
            author=self._author,
            language="German" if brief.german else "English",
            style=describe_style(self._voice) if self._voice is not None else "",
            instructions=self._instructions,
            examples=self._show_examples(said),
            notes=said,
            form=form,
            words=words,
            subject=brief.subject,
        )
        tokens = int(words * _TOKENS_PER_WORD) + 40
        return Order(tuple(messages), "write", tokens, free=brief.form == "title")

    def _show_examples(self, notes: Sequence[str]) -> list[str]:
        """A text that shows how the author writes, unless the notes stand in it."""
        if self._examples is None:
            wanted = "article" if self._brief.form in ("article", "newsletter") else "post"
            exemplars = self._voice.exemplars if self._voice is not None else ()
            fitting = [exemplar.text for exemplar in exemplars if exemplar.category == wanted]
            self._examples = fitting or self._collection.find_examples(self._author, self._brief.subject)
        return [text for text in self._examples if not any(note in text for note in notes)][:1]


def _number(passages: Sequence[Passage]) -> list[Citation]:
    return [Citation(number=n, passage=passage) for n, passage in enumerate(passages, start=1)]


def _share_out(notes: Sequence[Quotation], count: int) -> list[Sequence[Quotation]]:
    """The notes in so many shares of about the same size."""
    return [notes[i * len(notes) // count : (i + 1) * len(notes) // count] for i in range(count)]


_LONGEST_TITLE = 80
"""Characters of a heading that makes a title."""


def _choose_titles(subject: str, passages: Sequence[Passage]) -> list[str]:
    """Headings as titles: "The basic step" names nothing alone, "Quantisation: the basic step" does."""
    about = subject[:1].upper() + subject[1:]
    names = list(dict.fromkeys(_name(passage) for passage in passages))
    names.sort(
        key=lambda name: ". " in name or len(name) > _LONGEST_TITLE
    )  # a digest's heading lists what is in it
    return [
        name
        if content_stems(subject) & content_stems(name)
        else f"{about}: {name[:1].lower() + name[1:] if name[1:2].islower() else name}"
        for name in names
    ]


_NUMBERED = re.compile(r"^[\W_]*(?:(?:[IVX]+|\d+)\\?[.):]\s*)?[\W_]*(?=\w)")
"""Marks and numbers before a heading's words."""


def _name(passage: Passage) -> str:
    name = passage.headings[-1] if passage.headings else name_text(passage.title, passage.text)
    return _NUMBERED.sub("", strip_markdown(name)).strip("* ")
