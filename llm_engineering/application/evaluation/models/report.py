"""Render the evaluation's report: one self-contained HTML page, and a table for console and dashboard."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from llm_engineering.application.evaluation.models.evaluate import ModelEvaluation, SystemResult
from llm_engineering.application.evaluation.models.judging import Judging
from llm_engineering.application.evaluation.models.metrics import METRICS, UNINTERVALLED
from llm_engineering.application.evaluation.models.report_view import comparisons, shown, slices, themes
from llm_engineering.domain.models import EvaluationReport, Score

TEMPLATE = Path(__file__).with_name("report.html.j2")
_ORDER = ["perplexity", *(m.name for m in METRICS), *(name for name in UNINTERVALLED if name != "perplexity")]
_NOTED = (("style", "style"), ("chrf", "chrF"), ("judge_accuracy", "accuracy"))


def columns(report: EvaluationReport) -> list[str]:
    """Headings of the table: a column for each system."""
    return ["Metric", *(system.system for system in report.systems)]


def rows(report: EvaluationReport) -> Iterator[list[str]]:
    """The table's lines, a metric each; an arrow marks those where lower is better."""
    by_system = [_overall(system.scores) for system in report.systems]
    names = [name for name in _ORDER if any(name in found for found in by_system)]
    names += sorted({name for found in by_system for name in found} - set(names))
    for name in names:
        lower = any(not found[name].higher_is_better for found in by_system if name in found)
        yield [f"{name} ↓" if lower else name, *(_shown(found.get(name)) for found in by_system)]


def html_report(evaluation: ModelEvaluation) -> str:
    """The report as a page without any reference to the outside; follows the reader's light or dark scheme."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    report = evaluation.report
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report.model_copy(update={"overlap": report.overlap or {}}),
        documents=len(set(evaluation.held.documents)),
        themes=themes(report),
        comparisons=comparisons(report),
        slices=slices(report),
        shown=shown,
        calibrations=evaluation.calibrations,
        bias=[
            (result.system.name, gap, gap is result.bias.control)
            for result in evaluation.results
            if result.bias is not None
            for gap in (*result.bias.gaps, result.bias.control)
        ],
        judging=evaluation.judging,
        samples=_side_by_side(evaluation),
        share=_share,
        number=_number,
    )


def as_dict(evaluation: ModelEvaluation) -> dict[str, Any]:
    """Everything, as plain values: the JSON artifact, with every answer and its values."""
    return {
        "report": evaluation.report.model_dump(mode="json"),
        "calibrations": [asdict(item) for item in evaluation.calibrations],
        "judge": _judged(evaluation.judging) if evaluation.judging is not None else None,
        "bias": {
            result.system.name: asdict(result.bias)
            for result in evaluation.results
            if result.bias is not None
        },
        "table": {"columns": columns(evaluation.report), "rows": list(rows(evaluation.report))},
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
        "jury": judging.jury.metadata(),
    }


def metadata(report: EvaluationReport) -> dict[str, float | str]:
    """Figures for a run's dashboard."""
    found: dict[str, float | str] = {"evaluation": report.id, "dataset": report.dataset}
    for system in report.systems:
        overall = _overall(system.scores)
        for name in ("perplexity", "rougeL", "chrf", "style", "copied_words", "judge_accuracy", "bias"):
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
