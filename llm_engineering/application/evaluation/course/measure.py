"""Read the exchanges of a warehouse, and measure every response: words, meaning, tone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llm_engineering.application.analysis.heads import TextEmbedder
from llm_engineering.application.evaluation.course.config import CourseRun
from llm_engineering.application.evaluation.models.metrics import ReferenceMetrics
from llm_engineering.application.reviews.polarity import PolarityScorer
from llm_engineering.application.text.overlap import measure_copying
from llm_engineering.application.text.sentences import split_units
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.errors import InvalidInputError

CATEGORY = "exchange"
UNSORTED = "other"
_WORDS = ("rouge1", "rouge2", "rougeL", "bleu", "chrf")
METRICS = (*_WORDS, "relevance", "coverage")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question with its context, and what one assistant answered."""

    table: str
    """Of which assistant: the name of its table."""
    query: str
    context: str
    response: str
    professor: str
    bucket: str
    """What kind of question it is, so that like is compared with like."""
    language: str

    @property
    def question(self) -> tuple[str, str, str]:
        """What tells the question from others, in every table alike."""
        return self.professor, self.query, self.context


@dataclass(frozen=True, slots=True)
class Measured:
    """An exchange with its values. None: it cannot be told."""

    exchange: Exchange
    scores: Mapping[str, float | None]
    tone: float | None
    """Of the response, about −1 (complaint) to 1 (praise)."""
    source_tone: float | None
    """Of the context."""
    note: str = ""
    """``empty``, ``verbatim`` (the context, word by word), ``language`` (the embedder does not read it)."""

    @property
    def shift(self) -> float | None:
        """How much better or worse the response tells it than its source does."""
        if self.tone is None or self.source_tone is None:
            return None
        return self.tone - self.source_tone


def read_exchanges(documents: Iterable[CleanDocument]) -> list[Exchange]:
    """Return the exchanges among the cleaned documents, by table and id."""
    found = sorted(documents, key=lambda one: (one.platform, one.link))

    def read(document: CleanDocument, name: str) -> str:
        return " ".join(str(document.metadata.get(name, "")).split())

    return [
        Exchange(
            table=one.platform,
            query=read(one, "query"),
            context=read(one, "context"),
            response=read(one, "response"),
            professor=read(one, "professor"),
            bucket=read(one, "bucket") or UNSORTED,
            language=one.language,
        )
        for one in found
    ]


def choose_candidates(exchanges: Sequence[Exchange], run: CourseRun) -> list[str]:
    """Return the tables to compare, in the order of the YAML, else of their names.

    Raises:
        InvalidInputError: a table that the YAML names was not collected, or there is none.
    """
    there = sorted({one.table for one in exchanges})
    wanted = [*run.candidates, *([run.reference] if run.reference else [])]
    missing = [name for name in wanted if name not in there]
    if missing or not there:
        raise InvalidInputError(
            f"There is no table {', '.join(missing) or 'of exchanges'} in the warehouse; it holds {', '.join(there) or 'none'}. "
            "A table is named by its file, without the ending: name it so under course.reference and course.candidates, or "
            "collect it."
        )
    chosen = list(run.candidates) or [name for name in there if name != run.reference]
    if not chosen:
        raise InvalidInputError(
            f"The warehouse holds the table {run.reference} alone, which is the reference: collect at least one assistant's."
        )
    return chosen


def measure_exchanges(
    exchanges: Sequence[Exchange],
    run: CourseRun,
    references: ReferenceMetrics,
    embedder: TextEmbedder,
) -> dict[str, list[Measured]]:
    """Return the measured exchanges of each candidate, on the questions that every candidate was asked, in one order.

    Raises:
        InvalidInputError: see :func:`choose_candidates`; or no question was asked of all of them.
    """
    names = choose_candidates(exchanges, run)
    by_table: dict[str, dict[tuple[str, str, str], Exchange]] = {}
    for one in exchanges:
        by_table.setdefault(one.table, {})[one.question] = one
    shared = [key for key in by_table[names[0]] if all(key in by_table[name] for name in names)]
    if not shared:
        raise InvalidInputError(
            f"No question stands in all of the tables {', '.join(names)}. Assistants are compared on the same questions: query, "
            "context and professor must be equal in each table."
        )
    right = by_table.get(run.reference or "", {})
    scorer = PolarityScorer(embedder)
    return {
        name: _measure([by_table[name][key] for key in shared], right, references, embedder, scorer)
        for name in names
    }


def _measure(
    exchanges: Sequence[Exchange],
    right: Mapping[tuple[str, str, str], Exchange],
    references: ReferenceMetrics,
    embedder: TextEmbedder,
    scorer: PolarityScorer,
) -> list[Measured]:
    compared = [one for one in exchanges if one.question in right and right[one.question].response]
    words = references.score_pairs(
        [one.response for one in compared], [right[one.question].response for one in compared]
    )
    of_words = {
        one.question: {name: words[name][place] for name in _WORDS} for place, one in enumerate(compared)
    }
    near = (
        embedder.embed([one.query for one in exchanges])
        * embedder.embed([one.response or " " for one in exchanges])
    ).sum(axis=1)
    told = score_tones([text for one in exchanges for text in (one.response, one.context)], scorer)
    found = []
    for place, one in enumerate(exchanges):
        read = one.language == "en" or scorer.multilingual
        note = "" if read else "language"
        if not one.response:
            note = "empty"
        elif one.response == one.context:
            note = "verbatim"
        scores = dict.fromkeys(_WORDS) | of_words.get(one.question, {})
        relevance = (float(near[place]) if read else None) if one.response else 0.0
        coverage = measure_copying(one.context, one.response) if one.response else 0.0
        found.append(
            Measured(
                exchange=one,
                scores={**scores, "relevance": relevance, "coverage": coverage},
                tone=told[2 * place] if read else None,
                source_tone=told[2 * place + 1] if read else None,
                note=note,
            )
        )
    return found


def score_tones(texts: Sequence[str], scorer: PolarityScorer) -> list[float | None]:
    """Return the tone of each text, the mean over its sentences; None for one without any."""
    parts = [[text[one.start : one.end] for one in split_units(text)] for text in texts]
    scores = iter(scorer.score([sentence for one in parts for sentence in one]).tolist())
    return [float(np.mean([next(scores) for _ in one])) if one else None for one in parts]
