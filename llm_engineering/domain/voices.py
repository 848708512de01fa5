"""An author's voice in numbers and examples: how they write, so that a draft can follow it and be held against it."""

from pydantic import Field

from llm_engineering.domain.documents import Model


class Spread(Model):
    """How a measure lies over an author's texts."""

    low: float
    """A tenth of the values lies below."""
    median: float
    high: float
    """A tenth lies above."""


class StyleFit(Model):
    """A fitted style model in plain numbers, so that it can be stored; see ``application.text.style``."""

    grams: tuple[str, ...]
    gram_frequencies: tuple[float, ...]
    words: tuple[str, ...]
    """The most frequent words, which Burrows' Delta goes by."""
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    author: tuple[float, ...]
    """The author's z-scores of the words."""
    weights: tuple[float, ...] | None
    """Of both distances and the bias; None: nobody else's text was at hand."""
    same: tuple[tuple[float, float], ...]
    """Both distances of each of the author's own pieces, held out."""
    piece: int
    """Characters of the pieces that are compared."""
    low: float
    """Score below which a twentieth of the author's own held-out pieces lies."""
    high: float
    """Score above which a twentieth of them lies."""


class Exemplar(Model):
    """A text that shows how an author writes."""

    document_id: str
    category: str
    title: str
    text: str


class VoiceProfile(Model):
    """How an author writes in one language. Made by the feature pipeline, from prose alone: no code, no tables."""

    author: str
    language: str
    documents: int
    words: int
    sentence_words: Spread
    """Words of a sentence."""
    paragraph_sentences: Spread
    """Sentences of a paragraph."""
    rates: dict[str, float]
    """How often something comes in 1,000 words: ``commas``, ``questions``, ``emoji``, ``i``, ``we``, ``you``, ``headings`` …"""
    favoured: tuple[str, ...] = ()
    """Function words that come more often than in the texts of others, the most unusual first."""
    terms: tuple[str, ...] = ()
    """Words that carry content and mark this author's texts, the most telling first."""
    openers: tuple[str, ...] = ()
    """First sentences of texts."""
    closers: tuple[str, ...] = ()
    """Last sentences of texts."""
    repeated: tuple[str, ...] = ()
    """Sentences that stand in several of the texts, in small letters and without marks: adverts, notices of rights."""
    exemplars: tuple[Exemplar, ...] = ()
    """For each category, the texts that are most like the author's others."""
    style: StyleFit | None = None
    """None: too little text to tell the author from others."""
    inputs_hash: str = Field(default="", max_length=64)
    """Of the documents that it was made from and of how it is made: where it stands, there is nothing to do."""

    @property
    def id(self) -> str:
        """Derived from author and language."""
        return voice_id(self.author, self.language)


def voice_id(author: str, language: str) -> str:
    """Return the id of an author's voice in a language; spacing and case of the name do not matter."""
    return f"{' '.join(author.casefold().split())}:{language}"


class VoiceScore(Model):
    """How much a text sounds like an author."""

    author: str
    score: float = Field(ge=0, le=1)
    """Higher is more like the author."""
    low: float
    """Score below which only a twentieth of the author's own pieces lies: below it, the text sounds like somebody else."""
    high: float

    @property
    def is_in_range(self) -> bool:
        """Whether a text of the author's own might well score as low."""
        return self.score >= self.low
