"""How long a stage may take."""

import pytest

from llm_engineering.application.inference.deadlines import Deadline


def test_it_is_as_configured_while_the_stage_is_quick() -> None:
    deadline = Deadline(3.0)
    for _ in range(5):
        with deadline.measure() as seconds:
            assert seconds == 3.0


def test_it_doubles_where_the_stage_is_cut_off_and_not_for_ever() -> None:
    deadline, given = Deadline(3.0), list[float]()

    def cut_off() -> None:
        with deadline.measure() as seconds:
            given.append(seconds)
            raise TimeoutError

    for _ in range(4):
        with pytest.raises(TimeoutError):
            cut_off()
    assert given == [3.0, 6.0, 12.0, 12.0]
    for _ in range(20):
        with deadline.measure():
            pass
    assert deadline.seconds == 3.0


def test_another_failure_says_nothing_of_the_time() -> None:
    deadline = Deadline(3.0)
    with pytest.raises(ValueError, match="wrong"), deadline.measure():
        raise ValueError("wrong")
    assert deadline.seconds == 3.0
