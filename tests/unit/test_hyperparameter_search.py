"""Searching hyper-parameters: what may be searched, the budget, and going on after a kill."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.search import SearchRun, Study, apply_values, search
from llm_engineering.bootstrap.training import open_study
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, TrainingError

RATES = {"optimizer.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "lora.r": [4, 8]}


def wanted(**changes: Any) -> SearchRun:
    return SearchRun.model_validate({"space": RATES, "trials": 5, "sft": {"max_steps": 4}, **changes})


def opened(folder: Path, subject: str = "this") -> Study:
    pytest.importorskip("optuna")
    return open_study(folder / "trials.log", subject, 0)


class Learner:
    """Its loss is lowest at a learning rate of 1e-3; ``fails`` names calls, from 0, and what they raise."""

    def __init__(self, fails: Mapping[int, BaseException] | None = None, measured: bool = True) -> None:
        self.fails = fails or {}
        self.measured = measured
        self.configs: list[SftConfig] = []

    def __call__(self, config: SftConfig) -> Any:
        self.configs.append(config)
        if error := self.fails.get(len(self.configs) - 1):
            raise error
        loss = abs(config.optimizer.learning_rate - 1e-3)
        losses = {"validation_loss_best": loss, "validation_loss_last": loss} if self.measured else {}
        record = SimpleNamespace(to_metrics=lambda: losses, steps=4, dataset="toy@1")
        return SimpleNamespace(record=record)


def test_values_go_where_their_names_say_and_others_stay() -> None:
    config = SftConfig.model_validate({"max_steps": 9, "lora": {"lora_alpha": 4}})
    changed = apply_values(config, {"lora.r": 4, "optimizer.learning_rate": 0.01, "batch_size": 2})
    assert changed.lora is not None
    assert (changed.lora.r, changed.lora.lora_alpha, changed.optimizer.learning_rate) == (4, 4, 0.01)
    assert (changed.batch_size, changed.max_steps) == (2, 9)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"optimizer.learnig_rate": [0.1, 0.2]}, "learnig_rate"),
        ({"lora.r": [0, 4]}, "greater than or equal to 1"),
        ({"optimizer.min_lr": [1e-5, 1e-4]}, "no effect"),
        ({"lora.r": {"low": 8, "high": 4}}, "not below"),
        ({"lora.r": {"low": 0, "high": 4, "log": True}}, "above 0"),
        ({"lora.r": [4]}, "at least 2"),
    ],
)
def test_what_could_not_be_trained_with_is_told_before_the_first_trial(space: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        wanted(space=space)


def test_the_best_comes_first_and_the_budget_holds_over_calls(tmp_path: Path) -> None:
    train = Learner()
    first = search(wanted(trials=3), opened(tmp_path), train)
    assert len(train.configs) == 3
    assert [t.loss for t in first] == sorted(t.loss for t in first if t.loss is not None)
    again = search(wanted(trials=5), opened(tmp_path), train)
    assert len(again) == len(train.configs) == 5
    assert len({config.optimizer.learning_rate for config in train.configs}) == 5
    search(wanted(trials=5), opened(tmp_path), train)
    assert len(train.configs) == 5


def test_no_trial_begins_after_the_minutes(tmp_path: Path) -> None:
    study, train = opened(tmp_path), Learner()
    study.finish(replace(study.propose(wanted().space), loss=1.0, seconds=90.0))
    assert len(search(wanted(minutes=1), opened(tmp_path), train)) == 1
    assert not train.configs


def test_a_killed_search_goes_on_with_the_trial_it_was_at(tmp_path: Path) -> None:
    train = Learner({1: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        search(wanted(trials=3), opened(tmp_path), train)
    found = search(wanted(trials=3), opened(tmp_path), train)
    assert [trial.status for trial in found] == ["finished"] * 3
    assert train.configs[2] == train.configs[1]
    assert len(train.configs) == 4


def test_values_that_break_a_training_cost_that_trial_only(tmp_path: Path) -> None:
    train = Learner({1: TrainingError("Loss became NaN."), 2: ConfigurationError("No room.")})
    found = search(wanted(trials=4), opened(tmp_path), train)
    assert [trial.status for trial in found] == ["finished", "finished", "failed", "failed"]


def test_a_machine_that_cannot_train_at_all_is_told_at_once(tmp_path: Path) -> None:
    train = Learner({0: ConfigurationError("There is no base model.")})
    with pytest.raises(ConfigurationError, match="no base model"):
        search(wanted(), opened(tmp_path), train)
    assert len(train.configs) == 1


def test_without_a_validation_split_nothing_is_called_better(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no validation split"):
        search(wanted(), opened(tmp_path), Learner(measured=False))


def test_losses_on_other_data_are_not_mixed(tmp_path: Path) -> None:
    search(wanted(trials=1), opened(tmp_path), Learner())
    with pytest.raises(ConfigurationError, match="another data set"):
        opened(tmp_path, "other data")
