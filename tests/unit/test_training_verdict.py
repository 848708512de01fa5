"""The verdict on a run's losses, from traces whose kind is plain to see."""

import math
from collections.abc import Callable

import pytest

from llm_engineering.application.training.finetune.record import TracePoint
from llm_engineering.application.training.finetune.verdict import judge_fit

STEPS = 20


def trace(
    loss: Callable[[int], float], validation: Callable[[int], float], *, every: int = 5
) -> tuple[TracePoint, ...]:
    scored = range(0, STEPS + 1, every)
    return tuple(
        TracePoint(
            step=step,
            loss=loss(step) if step else None,
            validation_loss=validation(step) if step in scored else None,
        )
        for step in range(STEPS + 1)
    )


def falling(step: int) -> float:
    return 4.0 - 0.1 * step


def settled(step: int) -> float:
    return 2.0 + 2.0 * math.exp(-step / 2)


def turning(step: int) -> float:
    return 3.0 + abs(step - 10) / 10


@pytest.mark.parametrize(
    ("loss", "validation", "kind", "since", "scores"),
    [
        (falling, turning, "overfitting", 10, (3.0, 4.0)),
        (falling, falling, "underfitting", 15, (2.5, 2.0)),
        (settled, settled, "converged", 15, (settled(15), settled(20))),
        (falling, settled, "converged", 15, (settled(15), settled(20))),
        (lambda step: 3.0 + 0.1 * step, turning, "unclear", 10, (3.0, 4.0)),
        (lambda _: 3.0, falling, "unclear", 15, (2.5, 2.0)),
        (falling, lambda step: 3.0 + 0.1 * step, "overfitting", 0, (3.0, 5.0)),
    ],
)
def test_each_kind_is_told_with_what_it_rests_on(
    loss: Callable[[int], float],
    validation: Callable[[int], float],
    kind: str,
    since: int,
    scores: tuple[float, float],
) -> None:
    verdict = judge_fit(trace(loss, validation))
    assert (verdict.kind, verdict.since) == (kind, since)
    assert verdict.validation_loss == pytest.approx(scores)
    assert f"{scores[0]:.4f} → {scores[1]:.4f}" in verdict.describe()


def test_training_is_compared_over_as_many_steps_before_as_after() -> None:
    verdict = judge_fit(trace(falling, falling))
    assert verdict.loss == pytest.approx((4.0 - 0.1 * 13, 4.0 - 0.1 * 18)), (
        "means of 11 to 15, and of 16 to 20"
    )


def test_less_than_a_hundredth_is_no_change() -> None:
    assert judge_fit(trace(falling, lambda step: 3.0 - 0.001 * step)).kind == "converged"
    assert judge_fit(trace(falling, lambda step: 3.0 + 0.001 * step)).kind == "converged"


def test_a_run_that_was_scored_at_its_ends_alone_gets_none() -> None:
    verdict = judge_fit(trace(falling, falling, every=STEPS))
    assert (verdict.kind, verdict.validation_loss) == ("unclear", None)
    assert "eval_steps" in verdict.advice


def test_the_training_loss_may_be_missing() -> None:
    scored = [TracePoint(step=step, validation_loss=falling(step)) for step in (0, 10, 20)]
    assert judge_fit(scored).loss is None
