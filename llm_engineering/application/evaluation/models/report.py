"""Render the evaluation's report: one self-contained HTML page, and a table for console and dashboard."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from llm_engineering.application.evaluation.models.evaluate import ModelEvaluation, SystemResult
from llm_engineering.application.evaluation.models.judging import Judging
from llm_engineering.application.evaluation.models.metrics import BY_NAME, METRICS, UNINTERVALLED
from llm_engineering.domain.models import Difference, EvaluationReport, Score

TEMPLATE = Path(__file__).with_name("report.html.j2")
_ORDER = ["perplexity", *(m.name for m in METRICS), *(name for name in UNINTERVALLED if name != "perplexity")]
_NOTED = (("style_contrast", "style"), ("chrf", "chrF"), ("judge_accuracy", "accuracy"))


def table_columns(report: EvaluationReport) -> list[str]:
    """Return headings of the table: a column for each system."""
    return ["Metric", *(system.system for system in report.systems)]


def table_rows(report: EvaluationReport) -> Iterator[list[str]]:
    """Yield the table's lines, a metric each; an arrow marks those where lower is better."""
    by_system = [_overall(system.scores) for system in report.systems]
    names = [name for name in _ORDER if any(name in found for found in by_system)]
    names += sorted({name for found in by_system for name in found} - set(names))
    for name in names:
        lower = any(not found[name].higher_is_better for found in by_system if name in found)
        yield [f"{name} ↓" if lower else name, *(_shown(found.get(name)) for found in by_system)]


def html_report(evaluation: ModelEvaluation) -> str:
    """Return the report as a page without any reference to the outside; follows the reader's light or dark scheme."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    report = evaluation.report
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report.model_copy(update={"overlap": report.overlap or {}}),
        documents=len(set(evaluation.held.documents)),
        themes=theme_tables(report),
        comparisons=list_comparisons(report),
        slices=slice_tables(report),
        shown=format_figure,
        calibrations=evaluation.calibrations,
        contrasts=evaluation.contrasts,
        authors=evaluation.authors,
        judging=evaluation.judging,
        samples=_side_by_side(evaluation),
        share=_share,
        number=_number,
    )


def as_dict(evaluation: ModelEvaluation) -> dict[str, Any]:
    """Return everything, as plain values: the JSON artifact, with every answer and its values."""
    return {
        "report": evaluation.report.model_dump(mode="json"),
        "calibrations": [asdict(item) for item in evaluation.calibrations],
        "authors": dict(evaluation.authors),
        "judge": _judged(evaluation.judging) if evaluation.judging is not None else None,
        "table": {"columns": table_columns(evaluation.report), "rows": list(table_rows(evaluation.report))},
        "answers": [
            {
                "sample": sample.id,
                "document": sample.origin.document_id,
                "instruction": sample.instruction,
                "reference": sample.answer,
                "systems": {
                    result.system.name: {
                        "text": result.written[place].text,
                        "values": {name: column[place] for name, column in result.columns.items()},
                    }
                    for result in evaluation.results
                },
            }
            for place, sample in enumerate(evaluation.held.samples)
        ],
    }


def _judged(judging: Judging) -> dict[str, Any]:
    return {
        "probes": [asdict(one) for one in judging.probes],
        "agreement": {"accuracy": asdict(judging.accuracy), "style": asdict(judging.style)},
        "unjudged": judging.unjudged,
        "jury": judging.jury.to_metadata(),
    }


def run_metadata(report: EvaluationReport) -> dict[str, float | str]:
    """Return figures for a run's dashboard."""
    found: dict[str, float | str] = {"evaluation": report.id, "dataset": report.dataset}
    for system in report.systems:
        overall = _overall(system.scores)
        for name in (
            "perplexity",
            "rougeL",
            "chrf",
            "style_contrast",
            "style",
            "copied_words",
            "judge_accuracy",
        ):
            if name in overall:
                found[f"{system.system}_{name}"] = round(overall[name].value, 6)
    return found


def _overall(scores: Sequence[Score]) -> dict[str, Score]:
    return {score.metric: score for score in scores if not score.slice}


def _shown(score: Score | None) -> str:
    if score is None:
        return "–"
    digits = 1 if abs(score.value) >= 100 else 3
    text = f"{score.value:.{digits}f}"
    if score.low is not None and score.high is not None:
        text += f" [{score.low:.{digits}f}, {score.high:.{digits}f}]"
    return f"{text} –{score.missing}" if score.missing else text


def _side_by_side(evaluation: ModelEvaluation) -> list[dict[str, Any]]:
    return [
        {
            "instruction": sample.instruction,
            "author": sample.origin.author,
            "category": sample.origin.category,
            "reference": sample.answer,
            "answers": [
                {
                    "system": result.system.name,
                    "text": result.written[place].text,
                    "notes": _notes(result, place),
                }
                for result in evaluation.results
            ],
        }
        for place, sample in enumerate(evaluation.held.samples)
    ]


def _notes(result: SystemResult, place: int) -> str:
    known = ((label, result.columns[name][place]) for name, label in _NOTED if name in result.columns)
    notes = [f"{label} {value:.2f}" for label, value in known if value is not None]
    copied = result.columns["copied_words"][place] or 0
    if copied >= 8:
        notes.append(f"{copied:.0f} words copied")
    if result.written[place].cut:
        notes.append("cut")
    return " · ".join(notes)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


_THEMES = (
    (
        "Likeness to the author's answers",
        "perplexity nll rouge1 rouge2 rougeL bleu chrf bertscore reference_similarity",
    ),
    (
        "Style, and what is copied",
        "author_similarity style_contrast style gram_distance delta copied_words copied_share",
    ),
    ("Faults", "empty repetition cut"),
    ("By the judges", "judge_accuracy judge_style"),
    ("Over all answers", "corpus_bleu corpus_chrf"),
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
        """Return how many metrics have that verdict."""
        return sum(row.verdict == verdict for row in self.rows)


def theme_tables(report: EvaluationReport) -> list[tuple[str, list[Row]]]:
    """Return all scores over the whole test split; a theme that nothing was measured of is left out."""
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


def list_comparisons(report: EvaluationReport) -> list[Comparison]:
    """Return every candidate against every reference, the newest candidate first."""
    pairs: dict[tuple[str, str], list[Difference]] = {}
    for item in report.differences:
        if not item.slice:
            pairs.setdefault((item.candidate, item.reference), []).append(item)
    order = [name for _, wanted in _THEMES for name in wanted.split()]
    found = []
    for (candidate, reference), items in reversed(pairs.items()):
        items.sort(key=lambda item: order.index(item.metric) if item.metric in order else len(order))
        rows = tuple(
            Compared(item, explain_metric(item.metric), decide_verdict(item), _bar(item))
            for item in items
            if not _equal(item)
        )
        found.append(
            Comparison(candidate, reference, rows, tuple(item.metric for item in items if _equal(item)))
        )
    return found


def slice_tables(report: EvaluationReport) -> list[tuple[str, list[Row]]]:
    """Return the main metrics by slice."""
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


def decide_verdict(item: Difference) -> str:
    """Return ``better``, ``worse``, ``not told apart``, or ``one document``: too little to tell anything by."""
    if item.clusters < _EVIDENCE:
        return "one document"
    return "better" if item.better else "worse" if item.worse else "not told apart"


def explain_metric(name: str) -> str:
    """Return a metric in words; empty: unknown."""
    known = BY_NAME.get(name) or UNINTERVALLED.get(name)
    return known.meaning if known is not None else ""


def format_figure(value: float, *, signed: bool = False) -> str:
    """Return a figure with three decimals, one where it is large."""
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
    return Row(name.removeprefix(_HARNESS), explain_metric(name), lower, tuple(cells))


def _cell(score: Score | None, told: str) -> Cell:
    if score is None:
        return Cell("–")
    interval = ""
    if score.low is not None and score.high is not None:
        interval = f"{format_figure(score.low)} to {format_figure(score.high)}"
    return Cell(format_figure(score.value), interval, score.missing, told)


def _verdicts(report: EvaluationReport) -> dict[tuple[str, str, str], str]:
    """Against the first system, by slice, metric and candidate: ``better`` and ``worse`` only."""
    first = report.systems[0].system if report.systems else ""
    against: Iterable[Difference] = (item for item in report.differences if item.reference == first)
    found = {(item.slice, item.metric, item.candidate): decide_verdict(item) for item in against}
    return {key: told for key, told in found.items() if told in ("better", "worse")}


def _equal(item: Difference) -> bool:
    return item.low == item.high == 0


def _bar(item: Difference) -> Bar:
    reach = max(abs(item.low), abs(item.high), abs(item.value)) or 1.0
    low, at, high = (50 + _REACH * value / reach for value in (item.low, item.value, item.high))
    return Bar(round(low, 1), round(at, 1), round(high, 1))
