"""The replay of a load trace against scaling rules."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.deployment.scaling import Request, read_trace, simulate
from llm_engineering.domain.errors import InvalidInputError
from tests.unit.deployments import make_deployment

STEADY = [Request(at, 2.0) for at in range(0, 3600, 4)]
RUSH = sorted(STEADY + [Request(600 + n / 4, 4.0) for n in range(4 * 1200)])


def test_a_steady_load_needs_one_copy_and_costs_its_hours() -> None:
    result = simulate(make_deployment(scaling={"max_copies": 4}), STEADY)
    assert {sample.copies for sample in result.samples} == {1}
    assert max(result.waits) == 0
    assert result.machine_hours == pytest.approx(1.0, abs=0.01)


def test_a_rush_brings_copies_after_their_start_and_takes_them_away_again() -> None:
    trace = [*RUSH, *(Request(3600 + n * 10, 1.0) for n in range(360))]
    result = simulate(make_deployment(scaling={"max_copies": 4}), trace, start_seconds=300)
    assert max(sample.ready for sample in result.samples) == 4
    first_more = next(sample.at for sample in result.samples if sample.copies > 1)
    first_ready = next(sample.at for sample in result.samples if sample.ready > 1)
    assert 300 <= first_ready - first_more <= 310
    assert result.samples[-1].copies == 1


def test_more_copies_wait_less_and_cost_more() -> None:
    few, many = (simulate(make_deployment(scaling={"max_copies": most}), RUSH) for most in (1, 4))
    assert many.wait_quantile(0.95) < few.wait_quantile(0.95)
    assert few.answered == many.answered == len(RUSH)


def test_at_zero_the_first_request_is_refused_and_wakes_a_copy() -> None:
    trace = [Request(0, 1.0), Request(3000, 1.0), Request(3600, 1.0)]
    result = simulate(make_deployment(scaling={"min_copies": 0, "max_copies": 1}), trace, start_seconds=300)
    assert (result.answered, result.refused) == (2, 1)
    assert 0 in {sample.copies for sample in result.samples}


def test_an_asynchronous_endpoint_lets_requests_wait_for_a_copy() -> None:
    deployment = make_deployment(component=None, asynchronous={}, scaling={"min_copies": 0, "max_copies": 1})
    result = simulate(deployment, [Request(0, 1.0), Request(3000, 1.0)], start_seconds=300)
    assert (result.answered, result.refused) == (2, 0)
    assert max(result.waits) > 300


def test_without_scaling_the_copies_stay() -> None:
    result = simulate(make_deployment(component={"copies": 2}), RUSH)
    assert {sample.copies for sample in result.samples} == {2}


@given(
    st.lists(st.builds(Request, st.floats(0, 5000), st.floats(0, 60)), min_size=1, max_size=60),
    st.integers(0, 2),
    st.integers(1, 4),
)
def test_every_request_is_answered_or_refused(trace: list[Request], least: int, more: int) -> None:
    deployment = make_deployment(scaling={"min_copies": least, "max_copies": least + more})
    result = simulate(deployment, sorted(trace), start_seconds=60)
    assert result.answered + result.refused == len(trace)
    assert all(wait >= 0 for wait in result.waits)
    assert all(least <= sample.copies <= least + more or sample.copies == 1 for sample in result.samples)


def test_a_trace_is_read_from_lines_of_either_kind() -> None:
    lines = [
        json.dumps({"started_at": "2026-11-29T10:00:05+00:00", "seconds": 2.5, "name": "rag"}),
        "",
        json.dumps({"started_at": "2026-11-29T10:00:00+00:00", "seconds": 1}),
    ]
    assert read_trace(lines) == [Request(0.0, 1.0), Request(5.0, 2.5)]
    assert read_trace(['{"at": 3, "seconds": 1}']) == [Request(0.0, 1.0)]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"at": 1}',
        '{"at": "x", "seconds": 1}',
        '{"at": 1, "seconds": -1}',
        '{"at": NaN, "seconds": 1}',
    ],
)
def test_a_line_that_is_no_request_is_named(line: str) -> None:
    with pytest.raises(InvalidInputError, match="Line 2"):
        read_trace(['{"at": 0, "seconds": 1}', line])


def test_an_empty_trace_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        read_trace([""])
