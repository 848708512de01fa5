"""Sentences as a model might say them about the sample site, each with whether its sources back it.

``holds``: said by the sources, in their words (``near``) or in others (``paraphrase``). ``fails``: a number, a name or a
negation is wrong (``number``, ``name``, ``negation``), half of it is made up (``half``), or all of it (``invented``).
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llm_engineering.application.inference.grounding import split_statements
from llm_engineering.application.text.markdown import strip_markdown
from llm_engineering.application.text.sentences import Unit
from llm_engineering.domain.documents import RawDocument, Span
from llm_engineering.domain.retrieval import Passage

_PASSAGE = 2_500
"""Characters of a made-up passage."""
_VERB = re.compile(r"\b(?:is|are|can|will|was|should)\b(?! not|n't)")
_DENIES = re.compile(r"\b(?:not|no|never|without|cannot)\b|n't")


@dataclass(frozen=True, slots=True)
class LabelledClaim:
    """A sentence in answer to a question."""

    question: str
    text: str
    kind: str

    @property
    def holds(self) -> bool:
        return self.kind in ("near", "paraphrase")


_OVERLAP = "Why are chunks allowed to overlap?"
_LIMIT = "What happens when a chunk is longer than the embedding model's limit?"
_BIG = "How does small-to-big retrieval work?"
_BM25 = "Why does hybrid search combine BM25 with dense vectors?"
_RRF = "How does reciprocal rank fusion work?"
_LORA = "How does LoRA reduce the number of trained parameters?"
_QLORA = "What does QLoRA add to LoRA?"
_TWIN = "Was ist ein LLM-Zwilling?"

CLAIMS = tuple(
    LabelledClaim(question, text, kind)
    for question, kind, text in (
        (_OVERLAP, "near", "Overlap repeats the end of one chunk at the beginning of the next."),
        (_OVERLAP, "near", "Each added chunk costs embedding time and storage."),
        (_OVERLAP, "near", "We overlap by whole sentences, only inside a section."),
        (
            _OVERLAP,
            "paraphrase",
            "An answer could lie right across the place where a section was cut in two.",
        ),
        (
            _OVERLAP,
            "paraphrase",
            "Overlapping means the last part of a chunk shows up again when the following one starts.",
        ),
        (_OVERLAP, "number", "We overlap by whole sentences up to about 35% of the window."),
        (_OVERLAP, "negation", "Overlap does not repeat the end of one chunk at the beginning of the next."),
        (_OVERLAP, "half", "Overlap repeats the end of one chunk and encrypts it with the user's password."),
        (_OVERLAP, "invented", "Overlap was introduced by librarians in the nineteenth century."),
        (_LIMIT, "near", "The bundled model all-MiniLM-L6-v2 reads at most 256 word pieces."),
        (_LIMIT, "near", "Give it more and it raises no error; the rest is dropped."),
        (_LIMIT, "paraphrase", "Text beyond the limit is silently thrown away instead of causing an error."),
        (_LIMIT, "paraphrase", "You have to count the length with the tokenizer of the embedder itself."),
        (_LIMIT, "number", "The bundled model all-MiniLM-L6-v2 reads at most 512 word pieces."),
        (_LIMIT, "name", "The model BERT-large that this project bundles reads at most 256 word pieces."),
        (_LIMIT, "negation", "Give it more and it raises an error."),
        (_LIMIT, "invented", "Longer chunks are summarised automatically by a second neural network."),
        (
            _BIG,
            "near",
            "We search small chunks and hand the model the parent passage that the chunk came from.",
        ),
        (_BIG, "near", "A small chunk has one topic, so its vector is sharp and the match is precise."),
        (
            _BIG,
            "paraphrase",
            "Searching happens over little pieces, but the language model gets the larger passage around them.",
        ),
        (_BIG, "paraphrase", "If several of the best chunks share a parent, that parent appears only once."),
        (_BIG, "half", "We search small chunks and delete the parent passage after thirty days."),
        (_BIG, "invented", "Small-to-big retrieval compresses vectors with wavelets."),
        (_BM25, "near", "BM25 scores a document by the words that it shares with the question."),
        (_BM25, "near", "Rare words count more than common ones."),
        (_BM25, "near", "BM25 needs no training, no graphics card and no threshold."),
        (_BM25, "paraphrase", "Keyword search is good at finding error codes, names and version numbers."),
        (
            _BM25,
            "paraphrase",
            "Hybrid search runs both the keyword and the meaning search and merges their lists.",
        ),
        (_BM25, "negation", "BM25 needs training, a graphics card and a threshold."),
        (_BM25, "negation", "Rare words never count more than common ones."),
        (_BM25, "name", "Elasticsearch scores a document by the words that it shares with the question."),
        (_BM25, "invented", "BM25 was trained on two billion photographs of cats."),
        (_RRF, "near", "A document at rank r in a list receives 1 / (k + r), and the sums decide."),
        (_RRF, "near", "The constant 60 goes back to the paper by Cormack, Clarke and Büttcher of 2009."),
        (
            _RRF,
            "paraphrase",
            "Only the places in the lists matter, not the scores, because those cannot be added.",
        ),
        (_RRF, "number", "The constant 60 goes back to the paper by Cormack, Clarke and Büttcher of 1999."),
        (_RRF, "name", "The constant 60 goes back to the paper by Knuth, Clarke and Büttcher of 2009."),
        (_RRF, "negation", "The scores of the halves can be added."),
        (_LORA, "near", "LoRA trains a small addition beside the frozen weights."),
        (_LORA, "near", "Only A and B are trained."),
        (
            _LORA,
            "paraphrase",
            "The weight change is expressed as the product of two thin matrices while the original matrix stays frozen.",
        ),
        (_LORA, "number", "Saved in 16 bits the adapter takes 840 MB."),
        (
            _LORA,
            "half",
            "LoRA trains a small addition beside the frozen weights and doubles the speed of every GPU.",
        ),
        (_LORA, "negation", "W is not frozen."),
        (_LORA, "invented", "LoRA deletes half of the layers before training starts."),
        (_QLORA, "near", "QLoRA does the same while the frozen weights are held in four bits."),
        (_QLORA, "near", "QLoRA therefore saves memory and not time."),
        (_QLORA, "paraphrase", "With QLoRA each training step takes longer than with plain LoRA."),
        (_QLORA, "number", "A model of 90 billion parameters was tuned on a single card of 48 GB."),
        (_QLORA, "name", "QLoRA, by Hinton and others in 2023, adds three ideas."),
        (_QLORA, "negation", "QLoRA therefore saves time and not memory."),
        (_QLORA, "invented", "QLoRA requires quantum computers cooled with helium."),
        (
            _TWIN,
            "near",
            "Ein LLM-Zwilling ist ein Sprachmodell, das so antwortet, wie ein bestimmter Mensch antworten würde.",
        ),
        (_TWIN, "near", "Zwei Prozessorkerne genügen, eine Grafikkarte ist nicht nötig."),
        (_TWIN, "paraphrase", "Die Fakten stehen im Index und werden vom Modell nicht auswendig gelernt."),
        (_TWIN, "number", "Jeder Abschnitt bekommt einen Vektor mit 768 Zahlen."),
        (_TWIN, "negation", "Eine Grafikkarte ist nötig."),
        (_TWIN, "invented", "Ein LLM-Zwilling ist ein Roboter mit zwei Armen aus Aluminium."),
    )
)


def _is_quotable(unit: Unit, text: str) -> bool:
    """Return whether a unit can stand alone as an answer: prose, whole, and no question."""
    if unit.kind != "sentence":
        return False
    said = strip_markdown(text[unit.start : unit.end])
    return 30 <= len(said) <= 400 and said[-1] in ".!。！।۔"


def altered(
    documents: Sequence[RawDocument], count: int = 60, seed: int = 1
) -> Iterator[tuple[str, str, Passage]]:
    """(kind, sentence, passage), made by rule from any texts: a check on sentences that no threshold was chosen with.

    ``copy``: a sentence of the passage; ``number``: with its first number raised by 17; ``negated``: with a "not" behind its
    first verb, in English; ``foreign``: as it stands, against a passage of another document.
    """
    draw = random.Random(seed)
    long = [document for document in documents if len(document.text) > _PASSAGE]
    for _ in range(count):
        document, other = draw.sample(long, 2)
        passage, elsewhere = _passage(document, draw), _passage(other, draw)
        text = passage.text
        prose = [
            strip_markdown(text[s.unit.start : s.unit.end])
            for s in split_statements(text)
            if _is_quotable(s.unit, text)
        ]
        for sentence in draw.sample(prose, min(3, len(prose))):
            yield "copy", sentence, passage
            yield "foreign", sentence, elsewhere
            if number := re.search(r"\d+", sentence):
                raised = str(int(number.group()) + 17)
                yield "number", sentence[: number.start()] + raised + sentence[number.end() :], passage
            if (verb := _VERB.search(sentence)) and not _DENIES.search(sentence):
                yield "negated", f"{sentence[: verb.end()]} not{sentence[verb.end() :]}", passage


def _passage(document: RawDocument, draw: random.Random) -> Passage:
    start = draw.randrange(max(1, len(document.text) - _PASSAGE))
    text = document.text[start : start + _PASSAGE]
    return Passage(
        document_id=document.id,
        span=Span(start=start, end=start + len(text)),
        text=text,
        title=document.title,
        link=document.link,
        author=document.author,
        platform=document.platform,
        score=1.0,
    )
