"""Pre-flight checks: sequences within ``max_length``, enough samples, no setting without effect."""

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Generic, TypeVar

from loguru import logger

from llm_engineering.application.training.finetune.config import TrainingConfig
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, TooManyFailuresError

T = TypeVar("T", bound=Sized)


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """Sequences within the limit, and how many were not."""

    train: list[T]
    validation: list[T]
    over_limit: int
    longest: int
    """Tokens of the longest sequence, those over the limit too."""

    @property
    def longest_kept(self) -> int:
        """Tokens of the longest sequence that is trained on or scored."""
        return max(len(sequence) for sequence in (*self.train, *self.validation))


def within_limit(
    config: TrainingConfig, train: Sequence[T], validation: Sequence[T], what: str = "samples"
) -> Kept[T]:
    """Leave out sequences over ``max_length``. None is ever cut: an answer without its end teaches never to stop.

    Args:
        what: what a sequence is called in messages; its length is in tokens.

    Raises:
        ConfigurationError: a sequence is over the limit and that is to be refused, or the validation set is asked for and
            has nothing.
        TooManyFailuresError: more were over the limit than the configuration allows.
        InvalidInputError: nothing is left to train on.
    """
    total, longest = len(train) + len(validation), max(map(len, (*train, *validation)), default=0)
    fitting, scored = (
        [one for one in split if len(one) <= config.max_length] for split in (train, validation)
    )
    kept = Kept(fitting, scored, total - len(fitting) - len(scored), longest)
    if kept.over_limit:
        _judge_dropped(config, kept.over_limit, total, longest, what)
    if not kept.train:
        raise InvalidInputError(
            f"Nothing is left to train on: {kept.over_limit} of {total} {what} are over max_length ({config.max_length} "
            f"tokens; the longest has {longest}). Raise max_length, or make a data set of shorter passages."
        )
    if not kept.validation and (asked := list(_asks_for_validation(config))):
        raise ConfigurationError(
            f"{', '.join(asked)}: without effect, since the validation set is empty. Leave out what is named, or make a data "
            "set with a validation split (more documents)."
        )
    return kept


def _asks_for_validation(config: TrainingConfig) -> Sequence[str]:
    asked = {
        "eval_steps": config.eval_steps,
        "evaluation_batch_size": config.evaluation_batch_size,
        "keep_best": config.keep_best,
        "early_stopping": config.early_stopping,
    }
    return [name for name, value in asked.items() if value]


def _judge_dropped(config: TrainingConfig, dropped: int, total: int, longest: int, what: str) -> None:
    found = f"{dropped} of {total} {what} are longer than max_length ({config.max_length} tokens); the longest has {longest}"
    advice = "Raise max_length, or make a data set of shorter passages."
    if config.on_too_long == "error":
        raise ConfigurationError(f"{found}. {advice} With on_too_long: drop they would be left out.")
    if config.max_dropped_share is not None and dropped > config.max_dropped_share * total:
        raise TooManyFailuresError(
            f"{found}: more than max_dropped_share ({config.max_dropped_share:.0%}) allows. {advice}"
        )
    logger.warning("{}: left out, never cut.", found)


def check_context(base: str, longest: int, context: int | None) -> None:
    """Refuse sequences that are longer than the base model can read.

    Args:
        longest: tokens of the longest sequence.
        context: tokens that the base was made for; None: it does not say.

    Raises:
        ConfigurationError: the longest sequence is longer.
    """
    if context is not None and longest > context:
        raise ConfigurationError(
            f"A sequence has {longest} tokens, and {base} was made for {context} at most: behind them it would be taught "
            f"nothing that it can use. Set max_length to {context} or less, or take a base with a longer context."
        )


def check_steps(config: TrainingConfig, samples: int, devices: int, *, packed: bool = False) -> int:
    """The run's optimizer steps.

    Raises:
        ConfigurationError: something would have no effect in a run of so many steps.
    """
    if config.max_steps is not None:
        return config.max_steps
    batches = math.ceil(samples / (config.batch_size * devices))
    steps = math.ceil(math.ceil(batches / config.gradient_accumulation_steps) * (config.epochs or 1))
    if packed:
        return steps  # an upper bound: how many sequences packing leaves is not known yet
    if problems := list(config.steps_without_effect(steps)):
        listing = "\n".join(f"  - {problem}" for problem in problems)
        raise ConfigurationError(f"{samples} samples make a run of {steps} steps, so that:\n{listing}")
    return steps
