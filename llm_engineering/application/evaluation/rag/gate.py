"""The gate: retrieval on a known corpus must not fall beyond what chance explains.

The baseline keeps each question's value, so the comparison is paired: a few questions that stopped working are seen,
while an average over a small set may fall and rise by as much by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from llm_engineering.application.evaluation.rag.questions import Labelled
from llm_engineering.application.evaluation.rag.retrieval import ConfigurationRun
from llm_engineering.application.evaluation.statistics import Comparison, compare
from llm_engineering.domain.documents import Model
from llm_engineering.domain.errors import InvalidInputError


class Baseline(Model):
    """What retrieval once reached, question by question."""

    configuration: str
    metric: str
    mean: float
    low: float
    high: float
    """Its confidence interval at 95 %."""
    questions: dict[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's word."""

    passed: bool
    message: str
    comparison: Comparison
    worse: tuple[str, ...]
    """Questions that did better in the baseline."""


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        InvalidInputError: the file is not there, or is not a baseline.
    """
    try:
        return Baseline.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise InvalidInputError(
            f"The baseline {path} cannot be read ({error}). Write one with `write_baseline: true` under `gate`."
        ) from None


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline, one question a line, so that a change of it can be reviewed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(baseline.model_dump_json(indent=1) + "\n", encoding="utf-8")


def baseline_of(run: ConfigurationRun, metric: str, low: float, high: float) -> Baseline:
    """Return the baseline that a run sets."""
    values = {item.question_id: item.metrics[metric] for item in run.select_answerable()}
    mean = sum(values.values()) / len(values)
    return Baseline(
        configuration=run.name,
        metric=metric,
        mean=round(mean, 6),
        low=round(low, 6),
        high=round(high, 6),
        questions={key: round(value, 6) for key, value in sorted(values.items())},
    )


def check(
    runs: Sequence[ConfigurationRun],
    questions: Sequence[Labelled],
    baseline: Baseline,
    *,
    seed: int,
    resamples: int,
) -> Verdict:
    """Hold the run of the baseline's configuration against it.

    It fails when the interval of the paired difference lies below zero, or when the mean lies below the baseline's own
    interval. Both on the same questions; another set of them needs another baseline.

    Raises:
        InvalidInputError: the configuration was not run, or the questions are not those of the baseline.
    """
    run = next((run for run in runs if run.name == baseline.configuration), None)
    if run is None:
        raise InvalidInputError(
            f"The gate's configuration '{baseline.configuration}' was not run; there are: "
            f"{', '.join(item.name for item in runs)}."
        )
    now = dict(
        zip((item.question_id for item in run.select_answerable()), run.values(baseline.metric), strict=True)
    )
    _same_questions(now, baseline)
    clusters = [labelled.cluster for labelled in questions if labelled.targets]
    comparison = compare(
        list(now.values()),
        [baseline.questions[key] for key in now],
        clusters,
        seed=seed,
        resamples=resamples,
    )
    mean = sum(now.values()) / len(now)
    worse = tuple(key for key, value in now.items() if value < baseline.questions[key])
    passed = comparison.difference.high >= 0 and mean >= baseline.low
    return Verdict(passed, _message(passed, mean, baseline, comparison, worse), comparison, worse)


def _same_questions(now: Mapping[str, float], baseline: Baseline) -> None:
    missing = sorted(baseline.questions.keys() - now.keys())
    added = sorted(now.keys() - baseline.questions.keys())
    if missing or added:
        raise InvalidInputError(
            f"The baseline is of other questions: {len(missing)} of its own are missing here ({', '.join(missing[:5])}), "
            f"{len(added)} are new ({', '.join(added[:5])}). After looking at the table, write a new one with "
            "`write_baseline: true` under `gate`."
        )


def _message(
    passed: bool, mean: float, baseline: Baseline, comparison: Comparison, worse: Sequence[str]
) -> str:
    difference = comparison.difference
    figures = (
        f"{baseline.metric} of '{baseline.configuration}' is {mean:.3f}, the baseline's {baseline.mean:.3f} "
        f"[{baseline.low:.3f}, {baseline.high:.3f}]; difference {difference.mean:+.3f} "
        f"[{difference.low:+.3f}, {difference.high:+.3f}]"
    )
    if passed:
        return f"{figures}: within what chance explains."
    return f"{figures}: worse than chance explains. Questions that got worse: {', '.join(worse)}."
