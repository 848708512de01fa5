"""Plan a draft: the author's closest sentences as notes, laid out in the parts of the form, with an order for each part."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llm_engineering.application.inference.collection import Collection
from llm_engineering.application.inference.composing import Embed, Order, Outline, Section
from llm_engineering.application.inference.drafting import Brief, describe_style
from llm_engineering.application.inference.grounding import GroundingVerifier, Quote
from llm_engineering.application.inference.search import as_passages
from llm_engineering.application.llm import prompts
from llm_engineering.application.text.words import content_stems
from llm_engineering.domain.retrieval import Citation, Hit, Passage
from llm_engineering.domain.voices import VoiceProfile

PASSAGES = 6
"""Passages that a draft takes its facts from."""
PARTS = 4
"""Parts of an article, each from a document of its own."""
_WORDS_PER_NOTE = 20
_NOTES = (2, 7)
"""Sentences of theirs that the model is given for a part, fewest and most: it keeps to few plain notes better than to
passages."""
_TOKENS_PER_WORD = 1.6
_SAME = 0.7
"""Share of a note's content words that stand in an earlier one, from which it says the same."""
_ITEMS = ("thread", "tweet")
_PARAGRAPH = "one paragraph of two or three sentences, without a greeting or a heading,"


def plan_draft(
    brief: Brief,
    found: Mapping[str, Sequence[Hit]],
    collection: Collection,
    embed: Embed,
    *,
    extractive: bool,
    at_once: int | None = None,
    instructions: str = "",
) -> Outline:
    """Plan a draft from the passages about its subject. Blocking.

    Args:
        found: of each document those about the subject, best first; documents too.
        embed: texts to unit vectors, shape (n, dimension).
        extractive: the model is too small to write in its own words.
        at_once: notes that the model is given at once; None: all of a part.
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
    writer = _Writer(brief, collection, voice, at_once, instructions, embed)
    opening, closing = _frame(brief, author)
    if brief.form in ("article", "outline"):
        groups = _group_by_heading(own or others)
        parts = [
            part
            for place, passages in enumerate(groups)
            for part in writer.plan_paragraphs(
                passages,
                words=brief.words // len(groups),
                form="a section of an article, without a heading,",
                heading=f"{chr(10) if place else ''}## {_name(passages[0])}\n\n",
                bullets=brief.form == "outline",
            )
        ]
    elif brief.form in _ITEMS:
        parts = writer.plan_items(as_passages([*own, *others][:PASSAGES]))
    else:
        passages = as_passages([*own, *others][:PASSAGES])
        parts = writer.plan_paragraphs(passages, words=brief.words, form=brief.description)
    if extractive:
        opening = (
            f"*Zusammengestellt aus Sätzen von {author}, wörtlich.*\n\n"
            if brief.german
            else f"*Composed of {author}’s own sentences, word for word.*\n\n"
        ) + opening
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
        collection: Collection,
        voice: VoiceProfile | None,
        at_once: int | None,
        instructions: str,
        embed: Embed,
    ) -> None:
        assert brief.author is not None, "a draft has an author"
        self._brief = brief
        self._author = brief.author
        self._voice = voice
        self._at_once = at_once
        self._instructions = instructions.strip()
        self._embed = embed
        self._collection = collection
        self._examples: list[str] | None = None

    def plan_paragraphs(
        self, passages: Sequence[Passage], *, words: int, form: str, heading: str = "", bullets: bool = False
    ) -> list[Section]:
        """A text from the sentences of some passages closest to the subject, in as many paragraphs as the model needs."""
        fewest, most = _NOTES
        notes = self._select(passages, max(fewest, min(most, words // _WORDS_PER_NOTE)))
        if self._at_once is None or bullets or len(notes) <= self._at_once or self._brief.form == "title":
            return [self._section(passages, notes, words=words, form=form, heading=heading, bullets=bullets)]
        count = -(-len(notes) // self._at_once)
        return [
            self._section(
                passages,
                share,
                words=words // count,
                form=_PARAGRAPH,
                heading=f"{chr(10) if place else heading}",
            )
            for place, share in enumerate(_share_out(notes, count))
        ]

    def plan_items(self, passages: Sequence[Passage]) -> list[Section]:
        """The messages of a thread, or separate ones, each from notes of its own."""
        count = self._brief.count
        notes = self._select(passages, 2 * count)
        count = max(1, min(count, len(notes)))
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

    def _section(
        self,
        passages: Sequence[Passage],
        notes: Sequence[Quote],
        *,
        words: int,
        form: str,
        heading: str = "",
        bullets: bool = False,
    ) -> Section:
        brief = self._brief
        messages = prompts.render(
            "write",
            1,
            author=self._author,
            language="German" if brief.german else "English",
            style=describe_style(self._voice) if self._voice is not None else "",
            instructions=self._instructions,
            examples=self._show_examples(notes),
            notes=[note.text for note in notes],
            form=form,
            words=words,
            subject=brief.subject,
        )
        return Section(
            heading=heading,
            question=brief.subject,
            passages=tuple(passages),
            order=Order(tuple(messages), "write", int(words * _TOKENS_PER_WORD) + 40),
            notes=tuple(notes),
            bullets=bullets,
        )

    def _select(self, passages: Sequence[Passage], most: int) -> list[Quote]:
        """The sentences closest to the subject, each saying something else, in the order of the passages."""
        sources = [Citation(number=n, passage=passage) for n, passage in enumerate(passages, start=1)]
        verifier = GroundingVerifier(sources, self._embed)
        kept: list[Quote] = []
        for note in verifier.select_quotes(self._brief.subject, most=2 * most, min_similarity=-1.0):
            said = content_stems(note.text)
            if not any(len(said & content_stems(other.text)) >= _SAME * len(said) for other in kept):
                kept.append(note)
        best = sorted(kept, key=lambda note: -note.similarity)[:most]
        return [note for note in kept if note in best]

    def _show_examples(self, notes: Sequence[Quote]) -> list[str]:
        """A text that shows how the author writes, unless the notes stand in it. A small model would retell it."""
        if self._at_once is not None:
            return []
        if self._examples is None:
            wanted = "article" if self._brief.form in ("article", "newsletter") else "post"
            exemplars = self._voice.exemplars if self._voice is not None else ()
            fitting = [exemplar.text for exemplar in exemplars if exemplar.category == wanted]
            self._examples = fitting or self._collection.find_examples(self._author, self._brief.subject)
        return [text for text in self._examples if not any(note.text in text for note in notes)][:1]


def _share_out(notes: Sequence[Quote], count: int) -> list[Sequence[Quote]]:
    """The notes in so many shares of about the same size."""
    return [notes[i * len(notes) // count : (i + 1) * len(notes) // count] for i in range(count)]


def _name(passage: Passage) -> str:
    return passage.headings[-1] if passage.headings else passage.title or passage.author
