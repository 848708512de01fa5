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


def plan_draft(
    brief: Brief,
    found: Mapping[str, Sequence[Hit]],
    collection: Collection,
    embed: Embed,
    *,
    extractive: bool,
    instructions: str = "",
) -> Outline:
    """Plan a draft from the passages about its subject. Blocking.

    Args:
        found: of each document those about the subject, best first; documents too.
        embed: texts to unit vectors, shape (n, dimension).
        extractive: the model is too small to write in its own words.
        instructions: of the calling application; they stand below the prompt's own rules.

    Raises:
        StoreError: the index or the warehouse cannot be read.
        ModelError: the embedder failed.
    """
    author = brief.author or next(iter(found.values()))[0].chunk.author
    voice = collection.find_voice(author, german=brief.german)
    own = [hits for hits in found.values() if hits[0].chunk.author == author]
    others = [hits[:1] for hits in found.values() if hits[0].chunk.author != author]
    writer = _Writer(replace(brief, author=author), collection, voice, instructions, embed)
    if brief.form in ("article", "outline"):
        groups = [as_passages(hits[: PASSAGES // 2]) for hits in [*own, *others][:PARTS]]
        parts = [
            writer.plan_part(
                passages,
                words=brief.words // len(groups),
                form="a section of an article, without a heading,",
                heading=f"{chr(10) if place else ''}## {_name(passages[0])}\n\n",
                bullets=brief.form == "outline",
            )
            for place, passages in enumerate(groups)
        ]
        opening = f"# {brief.subject[:1].upper()}{brief.subject[1:]}\n\n"
    else:
        hits = [hit for hits in own for hit in hits] or [hit for hits in others for hit in hits]
        passages = as_passages([*hits, *(hit for hits in others for hit in hits)][:PASSAGES])
        if brief.form in _ITEMS:
            parts = writer.plan_items(passages)
        else:
            parts = [writer.plan_part(passages, words=brief.words, form=brief.description)]
        opening = ""
    if extractive:
        opening = (
            f"*Zusammengestellt aus Sätzen von {author}, wörtlich.*\n\n"
            if brief.german
            else f"*Composed of {author}’s own sentences, word for word.*\n\n"
        ) + opening
    return Outline(opening, tuple(parts), voice=voice, notes=("shortened",) if brief.shortened else ())


class _Writer:
    """Makes the parts of one draft."""

    def __init__(
        self,
        brief: Brief,
        collection: Collection,
        voice: VoiceProfile | None,
        instructions: str,
        embed: Embed,
    ) -> None:
        assert brief.author is not None, "a draft has an author"
        self._brief = brief
        self._author = brief.author
        self._voice = voice
        self._instructions = instructions.strip()
        self._embed = embed
        self._collection = collection
        self._examples: list[str] | None = None

    def plan_part(
        self, passages: Sequence[Passage], *, words: int, form: str, heading: str = "", bullets: bool = False
    ) -> Section:
        """A part from the sentences of some passages that are closest to the subject."""
        fewest, most = _NOTES
        notes = self._select(passages, max(fewest, min(most, words // _WORDS_PER_NOTE)))
        return self._section(passages, notes, words=words, form=form, heading=heading, bullets=bullets)

    def plan_items(self, passages: Sequence[Passage]) -> list[Section]:
        """The messages of a thread, or separate ones, each from notes of its own."""
        count = self._brief.count
        notes = self._select(passages, 2 * count)
        count = max(1, min(count, len(notes)))
        shares = [notes[i * len(notes) // count : (i + 1) * len(notes) // count] for i in range(count)]
        mark = f"/{count}" if self._brief.form == "thread" else "."
        return [
            self._section(
                passages,
                share,
                words=35,
                form="one message of at most 250 characters, without hashtags,",
                heading=f"{chr(10) if place else ''}{place + 1}{mark} ",
            )
            for place, share in enumerate(shares)
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
        """A text that shows how the author writes, unless the notes stand in it."""
        if self._examples is None:
            wanted = "article" if self._brief.form in ("article", "newsletter") else "post"
            exemplars = self._voice.exemplars if self._voice is not None else ()
            fitting = [exemplar.text for exemplar in exemplars if exemplar.category == wanted]
            self._examples = fitting or self._collection.find_examples(self._author, self._brief.subject)
        return [text for text in self._examples if not any(note.text in text for note in notes)][:1]


def _name(passage: Passage) -> str:
    return passage.headings[-1] if passage.headings else passage.title or passage.author
