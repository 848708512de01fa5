"""Search hyper-parameters: trainings with other values, the lowest validation loss wins. Doing it again goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

from loguru import logger
from pydantic import Field, ValidationError, model_validator

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.sft import TrainedModel
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, TrainingError

Value = bool | int | float | str
Values = Mapping[str, Value]


class Between(StrictConfig):
    """A number between two others."""

    low: int | float
    high: int | float
    log: bool = False
    """Draw the exponent evenly: for what matters by factors, such as learning rates."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) is not below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs numbers above 0; low is {self.low}")
        return self


Choices = Annotated[tuple[Value, ...], Field(min_length=2)]


class SearchRun(StrictConfig):
    """Parameters of ``search-hyperparameters``, as in its YAML."""

    RENAMED: ClassVar = {"output": "output_dir"}

    name: str = Field(default="search", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Trials and the result go to ``output_dir/name``."""
    dataset: Path | None = None
    """Folder of the data set; None: the newest ``instruct_dataset`` of the generation pipeline."""
    output_dir: Path = Path("data/trained")
    sft: SftConfig = SftConfig()
    """What all trials have in common."""
    space: dict[str, Between | Choices] = Field(min_length=1)
    """Keys of ``sft``, with dots, such as ``optimizer.learning_rate``: between two numbers, or a list of choices."""
    trials: int = Field(default=10, ge=1)
    """Trainings, over all calls."""
    minutes: float | None = Field(default=None, gt=0)
    """No training begins once trainings have taken so long, over all calls; one that runs comes to its end."""
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        for key, given in self.space.items():
            for value in (given.low, given.high) if isinstance(given, Between) else given:
                try:
                    apply_values(self.sft, {key: value})
                except ValidationError as error:
                    told = "; ".join(str(problem["msg"]) for problem in error.errors())
                    raise ValueError(f"space.{key}: {value!r} cannot be trained with: {told}") from None
        return self


class HyperparameterSearch(StrictConfig):
    """The YAML of a search."""

    search: SearchRun


@dataclass(frozen=True, slots=True)
class Trial:
    """One training of a search."""

    number: int
    values: Values
    status: Literal["open", "finished", "failed"] = "open"
    """``open``: it was begun, and a killed search left it."""
    loss: float | None = None
    """Lowest validation loss, in nats a token."""
    steps: int = 0
    seconds: float = 0.0


class Study(Protocol):
    """Proposes values, and remembers on disk what came of them."""

    def list_trials(self) -> list[Trial]:
        """Return all in their order."""
        ...

    def propose(self, space: Mapping[str, Between | Choices]) -> Trial:
        """Begin a trial with values that may be better than those before."""
        ...

    def finish(self, trial: Trial) -> None:
        """Keep what came of a trial: its loss, or that it failed."""
        ...


class TrainTrial(Protocol):
    """Trains with a configuration. What was trained with it before is returned, what was killed is gone on with."""

    def __call__(self, config: SftConfig) -> TrainedModel: ...


def apply_values(config: SftConfig, values: Values) -> SftConfig:
    """Return a configuration with other values.

    Raises:
        ValidationError: they do not fit.
    """
    told: dict[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    for key, value in values.items():
        *path, last = key.split(".")
        place = told
        for part in path:
            if not isinstance(place.get(part), dict):
                place[part] = {}
            place = place[part]
        place[last] = value
    return SftConfig.model_validate(told)


def search(run: SearchRun, study: Study, train: TrainTrial) -> list[Trial]:
    """Run what is left of the budget, and return all trials, the best first.

    Raises:
        InvalidInputError: the data set has no validation split, so nothing can be compared.
        ConfigurationError: nothing can be trained here; after a trial that could, its successors only count as failed.
    """
    for trial in study.list_trials():
        if trial.status == "open":
            logger.info("Trial {} was broken off; it is gone on with.", trial.number + 1)
            study.finish(_train(trial, run, train, study))
    while (reason := _find_end(run, study.list_trials())) is None:
        trial = study.propose(run.space)
        logger.info("Trial {} of {}: {}", trial.number + 1, run.trials, describe_values(trial.values))
        study.finish(_train(trial, run, train, study))
    logger.info("The search ends: {}.", reason)
    return rank_trials(study.list_trials())


def rank_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Return trials by their loss, the lowest first; those without one last."""
    return sorted(trials, key=lambda trial: (trial.loss is None, trial.loss, trial.number))


def describe_values(values: Values) -> str:
    """Return values in one line."""
    return ", ".join(f"{key} {format_value(value)}" for key, value in values.items())


def format_value(value: Value) -> str:
    """Return a value as one writes it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _find_end(run: SearchRun, trials: Sequence[Trial]) -> str | None:
    """Why no further trial begins; None: one does."""
    if len(trials) >= run.trials:
        return f"{len(trials)} trials are done"
    minutes = sum(trial.seconds for trial in trials) / 60
    if run.minutes is not None and minutes >= run.minutes:
        return f"trials have taken {minutes:.0f} of {run.minutes:g} minutes"
    return None


def _train(trial: Trial, run: SearchRun, train: TrainTrial, study: Study) -> Trial:
    begun = monotonic()
    try:
        trained = train(apply_values(run.sft, trial.values))
    except (TrainingError, ConfigurationError) as error:  # other values may do better
        if isinstance(error, ConfigurationError) and all(t.loss is None for t in study.list_trials()):
            raise
        logger.warning("Trial {} failed: {}", trial.number + 1, error)
        return Trial(trial.number, trial.values, "failed", seconds=monotonic() - begun)
    metrics = trained.record.to_metrics()
    if "validation_loss_best" not in metrics:
        raise InvalidInputError(
            f"The data set {trained.record.dataset} has no validation split, so no trial can be called better than another. Give "
            "it one (splits in the generation's YAML), or collect more documents: splits are by document."
        )
    return Trial(
        trial.number,
        trial.values,
        "finished",
        metrics["validation_loss_best"] if run.sft.keep_best else metrics["validation_loss_last"],
        trained.record.steps,
        monotonic() - begun,
    )
