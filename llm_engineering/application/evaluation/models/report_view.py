"""Prepare the report's data: metrics by theme, comparisons with confidence intervals, slices."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llm_engineering.application.evaluation.models.metrics import BY_NAME, UNINTERVALLED
from llm_engineering.domain.models import Difference, EvaluationReport, Score

_THEMES = (
    (
        "Likeness to the author's answers",
        "perplexity nll rouge1 rouge2 rougeL bleu chrf bertscore reference_similarity",
    ),
    ("Style, and what is copied", "author_similarity style gram_distance delta copied_words copied_share"),
    ("Faults", "empty toxic repetition cut"),
    ("By the judges", "judge_accuracy judge_style"),
    ("Over all answers", "corpus_bleu corpus_chrf bias"),
)
_HARNESS = "harness/"
_SLICED = ("perplexity", "rougeL", "chrf", "style", "judge_accuracy", "judge_style")
_EVIDENCE = 2
"""Documents below which an interval has no width and tells nothing."""
_REACH = 46.0
"""Of a bar of 100 units with zero in the middle, how far the longer side of an interval goes."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A score of one system."""

    value: str
    interval: str = ""
    missing: int = 0
    verdict: str = ""
    """``better`` or ``worse`` than the first system by the paired interval; empty: neither, or not compared."""


@dataclass(frozen=True, slots=True)
class Row:
    """A metric, with a cell for each system."""

    name: str
    meaning: str
    lower_is_better: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """A difference with its interval, in units of 0 to 100 with zero at 50."""

    low: float
    at: float
    high: float


@dataclass(frozen=True, slots=True)
class Compared:
    """A metric's paired difference."""

    difference: Difference
    meaning: str
    verdict: str
    bar: Bar


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate against a reference, over the whole test split."""

    candidate: str
    reference: str
    rows: tuple[Compared, ...]
    """Of the metrics that differ at all."""
    equal: tuple[str, ...]
    """Metrics that are the same on every answer."""

    def count(self, verdict: str) -> int:
        """Metrics with that verdict."""
        return sum(row.verdict == verdict for row in self.rows)


def themes(report: EvaluationReport) -> list[tuple[str, list[Row]]]:
    """All scores over the whole test split; a theme that nothing was measured of is left out."""
    found = [{score.metric: score for score in system.scores if not score.slice} for system in report.systems]
    told = _verdicts(report)
    names = {theme: wanted.split() for theme, wanted in _THEMES}
    known = {name for wanted in names.values() for name in wanted}
    rest = sorted({name for scores in found for name in scores} - known)
    names["Tasks of lm-evaluation-harness"] = [name for name in rest if name.startswith(_HARNESS)]
    names["Others"] = [name for name in rest if not name.startswith(_HARNESS)]
    rows = {
        theme: [
            _row(name, [scores.get(name) for scores in found], report, told)
            for name in wanted
            if any(name in scores for scores in found)
        ]
        for theme, wanted in names.items()
    }
    return [(theme, found) for theme, found in rows.items() if found]


def comparisons(report: EvaluationReport) -> list[Comparison]:
    """Every candidate against every reference, the newest candidate first."""
    pairs: dict[tuple[str, str], list[Difference]] = {}
    for item in report.differences:
        if not item.slice:
            pairs.setdefault((item.candidate, item.reference), []).append(item)
    order = [name for _, wanted in _THEMES for name in wanted.split()]
    found = []
    for (candidate, reference), items in reversed(pairs.items()):
        items.sort(key=lambda item: order.index(item.metric) if item.metric in order else len(order))
        rows = tuple(
            Compared(item, meaning(item.metric), verdict(item), _bar(item))
            for item in items
            if not _equal(item)
        )
        found.append(
            Comparison(candidate, reference, rows, tuple(item.metric for item in items if _equal(item)))
        )
    return found


def slices(report: EvaluationReport) -> list[tuple[str, list[Row]]]:
    """The main metrics by slice."""
    found = [
        {(score.slice, score.metric): score for score in system.scores if score.slice}
        for system in report.systems
    ]
    told = _verdicts(report)
    parts = sorted({part for scores in found for part, _ in scores})
    return [
        (
            part,
            [
                _row(name, [scores.get((part, name)) for scores in found], report, told, part)
                for name in _SLICED
                if any((part, name) in scores for scores in found)
            ],
        )
        for part in parts
    ]


def verdict(item: Difference) -> str:
    """``better``, ``worse``, ``not told apart``, or ``one document``: too little to tell anything by."""
    if item.clusters < _EVIDENCE:
        return "one document"
    return "better" if item.better else "worse" if item.worse else "not told apart"


def meaning(name: str) -> str:
    """A metric in words; empty: unknown."""
    known = BY_NAME.get(name) or UNINTERVALLED.get(name)
    return known.meaning if known is not None else ""


def shown(value: float, *, signed: bool = False) -> str:
    """A figure with three decimals, one where it is large."""
    return f"{value:{'+' if signed else ''}.{1 if abs(value) >= 100 else 3}f}"


def _row(
    name: str,
    scores: Sequence[Score | None],
    report: EvaluationReport,
    told: Mapping[tuple[str, str, str], str],
    part: str = "",
) -> Row:
    cells = [
        _cell(score, told.get((part, name, system.system), ""))
        for score, system in zip(scores, report.systems, strict=True)
    ]
    lower = any(not score.higher_is_better for score in scores if score is not None)
    return Row(name.removeprefix(_HARNESS), meaning(name), lower, tuple(cells))


def _cell(score: Score | None, told: str) -> Cell:
    if score is None:
        return Cell("–")
    interval = ""
    if score.low is not None and score.high is not None:
        interval = f"{shown(score.low)} to {shown(score.high)}"
    return Cell(shown(score.value), interval, score.missing, told)


def _verdicts(report: EvaluationReport) -> dict[tuple[str, str, str], str]:
    """Against the first system, by slice, metric and candidate: ``better`` and ``worse`` only."""
    first = report.systems[0].system if report.systems else ""
    against: Iterable[Difference] = (item for item in report.differences if item.reference == first)
    found = {(item.slice, item.metric, item.candidate): verdict(item) for item in against}
    return {key: told for key, told in found.items() if told in ("better", "worse")}


def _equal(item: Difference) -> bool:
    return item.low == item.high == 0


def _bar(item: Difference) -> Bar:
    reach = max(abs(item.low), abs(item.high), abs(item.value)) or 1.0
    low, at, high = (50 + _REACH * value / reach for value in (item.low, item.value, item.high))
    return Bar(round(low, 1), round(at, 1), round(high, 1))
