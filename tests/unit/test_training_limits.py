"""What a training may be begun with: lengths, what is left, a validation set where it is asked for, steps."""

from typing import Any

import pytest

from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.labels import EncodedChat
from llm_engineering.application.training.finetune.preflight import check_context, check_steps, within_limit
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, TooManyFailuresError


def sequences(*lengths: int) -> list[EncodedChat]:
    return [EncodedChat([1] * length, [1] * length) for length in lengths]


def config(**values: Any) -> SftConfig:
    return SftConfig.model_validate({"max_length": 50, "max_dropped_share": 0.5, **values})


def test_sequences_over_the_limit_are_left_out_whole_and_counted() -> None:
    kept = within_limit(config(), sequences(30, 50, 51), sequences(40, 90))
    assert [len(one) for one in kept.train] == [30, 50]
    assert [len(one) for one in kept.validation] == [40]
    assert (kept.over_limit, kept.longest, kept.longest_kept) == (2, 90, 50)


@pytest.mark.parametrize("what", ["samples", "pairs"])
def test_too_many_over_the_limit_are_an_error_in_the_words_of_the_data_set(what: str) -> None:
    told = rf"2 of 4 {what} are longer than max_length \(50 tokens\); the longest has 60: .*max_dropped_share \(20%\)"
    with pytest.raises(TooManyFailuresError, match=told):
        within_limit(config(max_dropped_share=0.2), sequences(40, 60, 60), sequences(40), what)


def test_or_any_as_configured() -> None:
    with pytest.raises(ConfigurationError, match=r"1 of 2 samples .* With on_too_long: drop"):
        within_limit(config(on_too_long="error", max_dropped_share=None), sequences(40, 60), [])


def test_where_nothing_is_left_the_limit_and_the_longest_are_told() -> None:
    told = r"1 of 3 samples are over max_length \(50 tokens; the longest has 70\)"
    with pytest.raises(InvalidInputError, match=told):
        within_limit(config(), sequences(70), sequences(40, 40))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"eval_steps": 2}, "eval_steps"),
        ({"evaluation_batch_size": 2}, "evaluation_batch_size"),
        ({"eval_steps": 2, "save_steps": 2, "keep_best": True}, "eval_steps, keep_best"),
        ({"eval_steps": 2, "save_steps": 2, "early_stopping": {}}, "eval_steps, early_stopping"),
    ],
)
def test_what_is_asked_of_an_empty_validation_set_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{named}: without effect"):
        within_limit(config(**values), sequences(40), [])


def test_a_sequence_longer_than_the_base_can_read_is_refused_with_the_limit_to_set() -> None:
    with pytest.raises(ConfigurationError, match=r"600 tokens, and toy was made for 512.* max_length to 512"):
        check_context("toy", 600, 512)
    check_context("toy", 512, 512)
    check_context("toy", 600, None)


def test_steps_are_counted_over_batches_accumulation_devices_and_epochs() -> None:
    chosen = SftConfig(batch_size=4, gradient_accumulation_steps=2, epochs=3)
    assert check_steps(chosen, 100, 2) == 21  # 13 batches, 7 steps an epoch
    assert check_steps(SftConfig(max_steps=5), 100, 2) == 5
