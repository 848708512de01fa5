"""Optuna proposes hyper-parameters (TPE: Bergstra et al., NeurIPS 2011) and keeps the trials in a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_engineering.application.training.finetune.search import Between, Choices, Trial
from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError

_UNGUIDED = 4
"""Trials at random before what they came to guides the next ones; a search on a laptop has about ten."""


class OptunaStudy:
    """Implements :class:`~llm_engineering.application.training.finetune.search.Study`.

    Raises:
        MissingDependencyError: Optuna is not installed.
        ConfigurationError: the file holds a search of something else.
    """

    def __init__(self, file: Path, subject: str, seed: int) -> None:
        """
        Args:
            file: where trials are kept; made where it is not there.
            subject: all that decides a trial's loss but its values; trials of another subject are not comparable.
            seed: of the proposals.
        """
        try:
            import optuna
        except ImportError:
            raise MissingDependencyError("optuna", "training", "Searching hyper-parameters") from None
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file.parent.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(file)))
        self._optuna = optuna
        self._study = optuna.create_study(storage=storage, study_name="search", load_if_exists=True)
        known = self._study.user_attrs.get("subject", subject)
        if known != subject:
            raise ConfigurationError(
                f"{file.parent} holds trials of another data set, space or common configuration; their losses cannot be compared "
                "with new ones. Give the search another name, or delete that folder."
            )
        self._study.set_user_attr("subject", subject)
        # Not the same proposals again after a search was broken off.
        self._study.sampler = optuna.samplers.TPESampler(
            seed=seed + len(self._study.trials), n_startup_trials=_UNGUIDED
        )

    def list_trials(self) -> list[Trial]:
        """See :meth:`Study.list_trials`."""
        return [_read(trial) for trial in self._study.trials]

    def propose(self, space: Mapping[str, Between | Choices]) -> Trial:
        """See :meth:`Study.propose`."""
        distributions = self._optuna.distributions
        told: dict[str, Any] = {}
        for key, given in space.items():
            if not isinstance(given, Between):
                told[key] = distributions.CategoricalDistribution(given)
            elif isinstance(given.low, int) and isinstance(given.high, int):
                told[key] = distributions.IntDistribution(given.low, given.high, log=given.log)
            else:
                told[key] = distributions.FloatDistribution(given.low, given.high, log=given.log)
        found = self._study.ask(fixed_distributions=told)
        return Trial(found.number, dict(found.params))

    def finish(self, trial: Trial) -> None:
        """See :meth:`Study.finish`."""
        kept = self._optuna.Trial(self._study, self._study.trials[trial.number]._trial_id)
        kept.set_user_attr("seconds", trial.seconds)
        kept.set_user_attr("steps", trial.steps)
        state = self._optuna.trial.TrialState
        if trial.loss is None:
            self._study.tell(trial.number, state=state.FAIL)
        else:
            self._study.tell(trial.number, trial.loss)


def _read(trial: Any) -> Trial:
    name = trial.state.name
    return Trial(
        trial.number,
        dict(trial.params),
        "finished" if name == "COMPLETE" else "failed" if name == "FAIL" else "open",
        trial.value,
        trial.user_attrs.get("steps", 0),
        trial.user_attrs.get("seconds", 0.0),
    )
