"""What every store of API keys and every rate limiter does."""

import threading
from collections.abc import Callable

import pytest

from llm_engineering.application.ports import KeyStore, RateLimiter
from llm_engineering.domain.api_keys import PREFIX
from llm_engineering.domain.errors import InvalidInputError


class KeyStoreContract:
    """Give a fixture ``open_store``: each call opens the same keys again, as another process would."""

    def test_there_are_none_at_first(self, open_store: Callable[[], KeyStore]) -> None:
        assert open_store().read_keys().keys == ()

    def test_a_key_is_recognised_by_others_with_its_scopes(self, open_store: Callable[[], KeyStore]) -> None:
        secret = open_store().create("laptop", ("documents",))
        assert secret.startswith(PREFIX)
        found = open_store().read_keys().recognise(secret)
        assert found is not None
        assert (found.name, found.scopes) == ("laptop", ("documents",))
        assert open_store().read_keys().recognise(secret + "x") is None

    def test_a_revoked_key_is_nobodys(self, open_store: Callable[[], KeyStore]) -> None:
        running, other = open_store(), open_store()
        secret, kept = other.create("laptop"), other.create("phone")
        assert running.read_keys().recognise(secret) is not None
        other.revoke("laptop")
        assert running.read_keys().recognise(secret) is None
        assert running.read_keys().recognise(kept) is not None

    def test_a_name_is_given_once_and_again_after_it_was_revoked(
        self, open_store: Callable[[], KeyStore]
    ) -> None:
        first = open_store().create("laptop")
        with pytest.raises(InvalidInputError, match="already"):
            open_store().create("laptop")
        open_store().revoke("laptop")
        second = open_store().create("laptop")
        assert open_store().read_keys().recognise(first) is None
        assert open_store().read_keys().recognise(second) is not None

    def test_revoking_what_is_not_there_says_what_is(self, open_store: Callable[[], KeyStore]) -> None:
        open_store().create("laptop")
        with pytest.raises(InvalidInputError, match="laptop"):
            open_store().revoke("lptop")

    @pytest.mark.parametrize("name", ["", "a b", "-x", "x" * 65, "a\nb", "../x", "$where"])
    def test_a_name_that_would_confuse_a_log_is_refused(
        self, open_store: Callable[[], KeyStore], name: str
    ) -> None:
        with pytest.raises(InvalidInputError):
            open_store().create(name)
        assert open_store().read_keys().keys == ()

    def test_of_writers_at_the_same_time_one_gets_a_name(self, open_store: Callable[[], KeyStore]) -> None:
        made: list[str] = []

        def create(number: int) -> None:
            store = open_store()
            store.create(f"own-{number}")
            try:
                made.append(store.create("wanted"))
            except InvalidInputError:
                return

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ring = open_store().read_keys()
        assert {key.name for key in ring.keys} == {"wanted", *(f"own-{number}" for number in range(8))}
        assert len(made) == 1
        assert ring.recognise(made[0]) is not None


class RateLimiterContract:
    """Give a fixture ``make_limiter``: (requests a minute, clock) → a limiter."""

    def test_a_budget_is_used_up_and_comes_back_evenly(
        self, make_limiter: Callable[[int, Callable[[], float]], RateLimiter]
    ) -> None:
        clock = [1_000_000.0]
        limiter = make_limiter(6, lambda: clock[0])
        decisions = [limiter.take("key a") for _ in range(7)]
        assert [one.allowed for one in decisions] == [True] * 6 + [False]
        assert [one.remaining for one in decisions] == [5, 4, 3, 2, 1, 0, 0]
        assert {one.limit for one in decisions} == {6}
        assert decisions[-1].retry_seconds == pytest.approx(10, abs=0.01)
        assert decisions[-1].reset_seconds == pytest.approx(60, abs=0.01)
        clock[0] += decisions[-1].retry_seconds + 0.001
        assert limiter.take("key a").allowed
        assert not limiter.take("key a").allowed

    def test_callers_have_budgets_of_their_own(
        self, make_limiter: Callable[[int, Callable[[], float]], RateLimiter]
    ) -> None:
        limiter = make_limiter(1, lambda: 1_000_000.0)
        assert limiter.take("address 10.0.0.1").allowed
        assert not limiter.take("address 10.0.0.1").allowed
        assert limiter.take("address 2001:db8::/64").allowed

    def test_a_clock_that_goes_back_gives_nothing_away(
        self, make_limiter: Callable[[int, Callable[[], float]], RateLimiter]
    ) -> None:
        clock = [1_000_000.0]
        limiter = make_limiter(1, lambda: clock[0])
        assert limiter.take("key a").allowed
        clock[0] -= 3600
        assert not limiter.take("key a").allowed
