"""Say from a run's losses whether it learned too little, too much, or enough."""

from collections.abc import Sequence
from typing import Literal

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.training.finetune.record import TracePoint

NOTICEABLE = 0.01
"""Share of the loss that counts as a change; less is noise of a small validation set."""
_END = 0.25
"""Share of the run that is its end."""
_SCORES = 3
"""Scores of the validation set that a verdict needs: before, during and after."""


class Verdict(StrictConfig):
    """How a run went, with the numbers it rests on."""

    kind: Literal["overfitting", "underfitting", "converged", "unclear"]
    since: int | None = None
    """The step that the end is compared with; None: nothing was compared."""
    validation_loss: tuple[float, float] | None = None
    """At that step and at the end."""
    loss: tuple[float, float] | None = None
    """Mean training loss before that step and after it; None: too few were logged."""
    advice: str

    def describe(self) -> str:
        """Return a sentence with the numbers."""
        if self.validation_loss is None:
            return f"{self.kind}: {self.advice}"
        told = f"since step {self.since} validation loss {_arrow(self.validation_loss)}"
        if self.loss is not None:
            told += f", training loss {_arrow(self.loss)}"
        return f"{self.kind}: {told}. {self.advice}"


def judge_fit(trace: Sequence[TracePoint]) -> Verdict:
    """Return what the losses of a run say.

    Overfitting: since its lowest score the validation loss has risen, while the training loss fell. Underfitting: over the last
    quarter of the run both were still falling. Converged: over that quarter the validation loss has not changed. A
    change of less than :data:`NOTICEABLE` of the loss counts as none.
    """
    scores = [(p.step, p.validation_loss) for p in trace if p.validation_loss is not None]
    if len(scores) < _SCORES:
        return Verdict(
            kind="unclear",
            advice=f"The validation set was scored {len(scores)} times; {_SCORES} are needed. Set a smaller eval_steps.",
        )
    last, end = scores[-1]
    best, lowest = min(scores, key=lambda score: score[1])
    if _rises(lowest, end):
        losses = _mean_losses(trace, best, last)
        fell = losses is not None and losses[1] < losses[0]
        return Verdict(
            kind="overfitting" if fell else "unclear",
            since=best,
            validation_loss=(lowest, end),
            loss=losses,
            advice=(
                "Set keep_best, train for fewer steps, or bring more data."
                if fell
                else "Validation got worse and training did not get better: take a lower learning_rate."
            ),
        )
    since, before = max(score for score in scores if score[0] <= last * (1 - _END))
    losses = _mean_losses(trace, since, last)
    numbers = {"since": since, "validation_loss": (before, end), "loss": losses}
    if not _rises(end, before):
        return Verdict(
            kind="converged",
            advice="Where the learning rate has fallen to nearly 0, a longer run may still learn more.",
            **numbers,
        )
    if losses is not None and losses[1] < losses[0]:
        return Verdict(
            kind="underfitting", advice="Train for more steps, or at a higher learning_rate.", **numbers
        )
    return Verdict(kind="unclear", advice="Validation got better and training did not: train on.", **numbers)


def _rises(first: float, second: float) -> bool:
    return second - first > NOTICEABLE * abs(first)


def _mean_losses(trace: Sequence[TracePoint], since: int, last: int) -> tuple[float, float] | None:
    """Mean training loss of as many steps before ``since`` as there are after it, and of those; where nothing was trained
    before it, of the two halves after it."""
    middle = since or last // 2
    first = [p.loss for p in trace if p.loss is not None and 2 * middle - last < p.step <= middle]
    second = [p.loss for p in trace if p.loss is not None and middle < p.step <= last]
    return (sum(first) / len(first), sum(second) / len(second)) if first and second else None


def _arrow(values: tuple[float, float]) -> str:
    return f"{values[0]:.4f} → {values[1]:.4f}"
