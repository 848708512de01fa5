"""Many requests to a model: cached, limited, retried; nothing is asked twice and nothing else is lost."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from llm_engineering.application.llm.batch import (
    MOST_FAILURES_IN_A_ROW,
    BatchClient,
    BatchConfig,
    LlmRequest,
    RequestRate,
    generation_key,
    run_in_order,
)
from llm_engineering.application.llm.budget import Budget
from llm_engineering.application.llm.structured_output import UnusableReplyError
from llm_engineering.application.ports import Delta, GenerationOptions, Message
from llm_engineering.domain.errors import ConfigurationError, ModelServiceError
from llm_engineering.domain.retrieval import Usage
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.warehouse import FakeWarehouse


def read(text: str) -> str:
    try:
        return str(json.loads(text)["said"])
    except (ValueError, KeyError, TypeError):
        raise UnusableReplyError("not the JSON that was asked for: " + text[:20]) from None


def ask(number: int = 0, **options: Any) -> LlmRequest[str]:
    messages = (Message("user", f"Say {number}"),)
    return LlmRequest(
        f"item {number}", messages, GenerationOptions(**{"max_tokens": 10, **options}), "hash", read
    )


def said(messages: Sequence[Message]) -> str:
    return json.dumps({"said": messages[-1].content.split()[-1]}).replace(" ", "")


def asker(model: Any, warehouse: FakeWarehouse | None = None, **asking: Any) -> BatchClient:
    stores = warehouse or FakeWarehouse()
    return BatchClient(
        model, stores.generations, stores.dead_letters, BatchConfig(**asking), stage="test", seed=7
    )


async def ask_all(asking: BatchClient, count: int, most: int = 8) -> list[str | None]:
    found = [value async for value in run_in_order((ask(n) for n in range(count)), asking.ask, most)]
    await asking.finish()
    return found


class TestReplies:
    async def test_answers_come_in_the_order_of_the_items(self) -> None:
        one = asker(ScriptedLanguageModel(default=said))
        assert await ask_all(one, 20) == [str(n) for n in range(20)]
        assert (
            one.to_metadata()["asked"] == one.to_metadata()["answered"] == one.to_metadata()["requests"] == 20
        )

    async def test_a_malformed_reply_is_asked_for_again_with_another_seed_and_some_warmth(self) -> None:
        model = ScriptedLanguageModel(["nonsense", '{"said":"it"}'])
        one = asker(model)
        assert await one.ask(ask()) == "it"
        first, second = (call.options for call in model.calls)
        assert (first.seed, second.seed) == (7, 8)
        assert first.temperature == 0 < second.temperature
        assert one.report.malformed_share == 0.5

    async def test_what_is_never_usable_becomes_a_dead_letter_and_nothing_else_is_lost(self) -> None:
        warehouse = FakeWarehouse()

        def thirty_percent_nonsense(messages: Sequence[Message]) -> str:
            number = int(messages[-1].content.split()[-1])
            return "{broken" if number % 10 < 3 else said(messages)

        one = asker(ScriptedLanguageModel(default=thirty_percent_nonsense), warehouse, attempts=1)
        found = await ask_all(one, 100)
        assert [value for value in found if value is not None] == [str(n) for n in range(100) if n % 10 > 2]
        assert one.to_metadata()["malformed_share"] == pytest.approx(0.3)
        assert one.to_metadata()["reasons"] == {"not the JSON that was asked for": 30}
        letters = list(warehouse.dead_letters.stream("test"))
        assert len(letters) == 30
        assert all("not the JSON" in letter.reason and letter.payload == "{broken" for letter in letters)

    async def test_a_letter_is_gone_once_its_item_has_succeeded(self) -> None:
        warehouse = FakeWarehouse()
        await ask_all(asker(ScriptedLanguageModel(default="no"), warehouse), 1)
        assert warehouse.dead_letters.count() == 1
        one = BatchClient(
            ScriptedLanguageModel(default=said),
            FakeWarehouse().generations,
            warehouse.dead_letters,
            BatchConfig(),
            stage="test",
        )
        await ask_all(one, 1)
        assert warehouse.dead_letters.count() == 0

    async def test_a_service_error_is_tried_again(self) -> None:
        one = asker(ScriptedLanguageModel([Reply(fail_after=0)], default=said))
        assert await one.ask(ask(3)) == "3"
        assert one.to_metadata()["failed_requests"] == 1

    async def test_a_service_that_is_down_ends_the_run_with_an_error(self) -> None:
        model = ScriptedLanguageModel([Reply(fail_after=0)] * 100)
        with pytest.raises(ModelServiceError, match="seems to be down"):
            await ask_all(asker(model), 50, most=4)
        assert len(model.calls) <= MOST_FAILURES_IN_A_ROW + 4

    async def test_a_prompt_that_does_not_fit_is_a_dead_letter_at_once(self) -> None:
        warehouse = FakeWarehouse()
        model = ScriptedLanguageModel(default=said, context_tokens=2)
        assert await ask_all(asker(model, warehouse), 1) == [None]
        assert len(model.calls) == 1
        [letter] = warehouse.dead_letters.stream()
        assert "context of 2" in letter.reason


class TestCache:
    async def test_a_run_again_makes_no_request(self) -> None:
        warehouse, model = FakeWarehouse(), ScriptedLanguageModel(default=said)
        await ask_all(asker(model, warehouse), 10)
        again = asker(model, warehouse)
        assert await ask_all(again, 10) == [str(n) for n in range(10)]
        assert len(model.calls) == 10
        assert again.to_metadata()["replies_from_cache"] == 10
        assert again.to_metadata()["prompt_tokens"] == 0
        assert again.to_metadata()["cached_tokens"] == 30

    @pytest.mark.parametrize("killed_after", [1, 7, 20])
    async def test_a_killed_run_goes_on_where_it_was_and_no_request_is_made_twice(
        self, killed_after: int
    ) -> None:
        warehouse, asked = FakeWarehouse(), list[str]()

        class Killed(BaseException):
            """As a signal would end the process."""

        def dying(messages: Sequence[Message]) -> str:
            if len(asked) == killed_after:
                raise Killed
            asked.append(messages[-1].content)
            return said(messages)

        with pytest.raises(Killed):
            await ask_all(asker(ScriptedLanguageModel(default=dying), warehouse, concurrency=3), 30, most=3)

        def going_on(messages: Sequence[Message]) -> str:
            asked.append(messages[-1].content)
            return said(messages)

        found = await ask_all(asker(ScriptedLanguageModel(default=going_on), warehouse), 30)
        assert found == [str(n) for n in range(30)]
        assert len(asked) == len(set(asked)) == 30

    async def test_replies_that_could_not_be_used_are_not_asked_for_again_either(self) -> None:
        warehouse = FakeWarehouse()
        model = ScriptedLanguageModel(["no", "no"], default=said)
        assert await asker(model, warehouse).ask(ask(5)) == "5"
        assert await asker(model, warehouse).ask(ask(5)) == "5"
        assert len(model.calls) == 3

    async def test_the_same_asked_twice_at_once_is_one_request(self) -> None:
        model = ScriptedLanguageModel(default=said)
        one = asker(model)
        assert await asyncio.gather(*(one.ask(ask(1)) for _ in range(6))) == ["1"] * 6
        assert len(model.calls) == 1

    @pytest.mark.parametrize(
        "changes",
        [
            {"messages": (Message("user", "b"),)},
            {"prompt_hash": "other"},
            {"model": "other"},
            {"options": GenerationOptions(seed=2)},
            {"options": GenerationOptions(max_tokens=2)},
            {"options": GenerationOptions(temperature=0.5)},
            {"options": GenerationOptions(json_schema={"type": "object"})},
        ],
    )
    def test_whatever_decides_a_reply_changes_its_key(self, changes: dict[str, Any]) -> None:
        base: dict[str, Any] = {
            "messages": (Message("user", "a"),),
            "prompt_hash": "p",
            "model": "m",
            "options": GenerationOptions(),
        }
        assert generation_key(**base) != generation_key(**{**base, **changes})
        patient = GenerationOptions(timeout_seconds=1)
        assert generation_key(**base) == generation_key(**{**base, "options": patient})


class Priced(ScriptedLanguageModel):
    """A model whose tokens cost a cent each."""

    async def stream(
        self, messages: Sequence[Message], options: GenerationOptions = GenerationOptions()
    ) -> AsyncIterator[Delta]:
        async for delta in super().stream(messages, options):
            if delta.usage is None:
                yield delta
                continue
            tokens = delta.usage.prompt_tokens + delta.usage.completion_tokens
            yield Delta(
                finish_reason=delta.finish_reason,
                usage=Usage(**{**delta.usage.model_dump(), "cost_usd": tokens * 0.01}),
            )


class TestLimits:
    async def test_a_budget_of_tokens_is_never_exceeded_and_the_run_says_that_it_ended_early(self) -> None:
        one = asker(ScriptedLanguageModel(default=said), budget=Budget(tokens=40))
        found = await ask_all(one, 50)
        told = one.to_metadata()
        made = len([value for value in found if value is not None])
        assert 0 < made < 50
        assert told["prompt_tokens"] + told["completion_tokens"] <= 40
        assert told["not_asked"] == 50 - made
        assert "budget of 40 tokens is spent" in told["stopped"]
        assert told["given_up"] == 0

    async def test_a_budget_of_dollars_is_kept(self) -> None:
        one = asker(Priced(default=said), budget=Budget(usd=0.5))
        found = await ask_all(one, 50)
        assert 0 < len([value for value in found if value is not None]) < 50
        assert 0.3 < one.to_metadata()["cost_usd"] <= 0.5

    async def test_dollars_without_prices_are_refused(self) -> None:
        one = asker(ScriptedLanguageModel(default=said), budget=Budget(usd=1))
        with pytest.raises(ConfigurationError, match="LLM_PROMPT_PRICE"):
            await ask_all(one, 3)

    async def test_what_is_cached_is_free_after_the_budget_is_spent(self) -> None:
        warehouse, model = FakeWarehouse(), ScriptedLanguageModel(default=said)
        await ask_all(asker(model, warehouse), 10)
        one = asker(model, warehouse, budget=Budget(tokens=1))
        assert await ask_all(one, 12) == [*(str(n) for n in range(10)), None, None]

    async def test_no_more_requests_are_in_flight_than_allowed(self) -> None:
        running = most = 0

        class Counting(ScriptedLanguageModel):
            async def stream(
                self, messages: Sequence[Message], options: GenerationOptions = GenerationOptions()
            ) -> AsyncIterator[Delta]:
                nonlocal running, most
                running += 1
                most = max(most, running)
                await asyncio.sleep(0.001)
                async for delta in super().stream(messages, options):
                    yield delta
                running -= 1

        await ask_all(asker(Counting(default=said), concurrency=3), 20, most=20)
        assert most == 3

    async def test_requests_are_spaced_to_the_rate_a_minute(self) -> None:
        now, waits = [100.0], list[float]()

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        rate = RequestRate(30, clock=lambda: now[0], sleep=sleep)
        for _ in range(3):
            await rate.wait_turn()
        assert waits == [2.0, 4.0]
        now[0] += 60
        await rate.wait_turn()
        assert len(waits) == 2
