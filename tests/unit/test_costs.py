"""What tokens cost."""

import pytest

from llm_engineering.domain.retrieval import Usage
from llm_engineering.infrastructure.shared.retries import add_cost

USAGE = Usage(prompt_tokens=1_000, completion_tokens=200)


def test_prices_are_for_a_million_tokens() -> None:
    found = add_cost(USAGE, 0.15, 0.60)
    assert found is not None
    assert found.cost_usd == pytest.approx(0.00015 + 0.00012)
    assert (found.prompt_tokens, found.completion_tokens) == (1_000, 200)


def test_a_free_model_costs_nothing_rather_than_something_unknown() -> None:
    found = add_cost(USAGE, 0.0, 0.0)
    assert found is not None
    assert found.cost_usd == 0.0


@pytest.mark.parametrize(("prompt", "completion"), [(None, None), (1.0, None), (None, 1.0)])
def test_without_both_prices_no_cost_is_stated(prompt: float | None, completion: float | None) -> None:
    assert add_cost(USAGE, prompt, completion) == USAGE


def test_what_the_service_did_not_tell_has_no_cost() -> None:
    assert add_cost(None, 1.0, 1.0) is None
