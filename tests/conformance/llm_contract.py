"""What every language model keeps. An adapter's tests inherit the class and give the fixture ``model``.

``model`` must answer a request for "JSON" with an object that has a name and an age, and anything else with at least
three words. An adapter that speaks to a service inherits ``HttpModelContract`` instead: all that, and every failure of a
service, of the network between, and of a client that goes away.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any, Protocol

import pytest

from llm_engineering.application.ports import Delta, GenerationOptions, LanguageModel, Message
from llm_engineering.domain.errors import InvalidInputError, ModelServiceError

QUESTION = [Message("system", "You answer in one short sentence."), Message("user", "Why is the sky blue?")]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
SHORT = GenerationOptions(max_tokens=12)
SKY = "Because air scatters blue light more than red light."
CONTEXT_WORDS = 2_000
"""The context of the scripted services."""


def scripted_reply(text: str) -> str:
    """What the scripted services answer by themselves."""
    return '{"name": "Bob", "age": 5}' if "JSON" in text else SKY


async def read(model: LanguageModel, messages: list[Message], options: GenerationOptions) -> list[Delta]:
    return [delta async for delta in model.stream(messages, options)]


class LanguageModelContract:
    async def test_a_reply_comes_in_pieces_and_ends_with_its_reason_and_usage(
        self, model: LanguageModel
    ) -> None:
        deltas = await read(model, QUESTION, SHORT)
        assert len([delta for delta in deltas if delta.text]) >= 3
        assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
        assert deltas[-1].finish_reason in ("stop", "length")
        usage = deltas[-1].usage
        assert usage is not None
        assert usage.prompt_tokens > 5
        assert 3 <= usage.completion_tokens <= 12

    async def test_a_reply_is_cut_at_max_tokens(self, model: LanguageModel) -> None:
        deltas = await read(model, QUESTION, GenerationOptions(max_tokens=2))
        assert deltas[-1].finish_reason == "length"
        assert deltas[-1].usage is not None
        assert deltas[-1].usage.completion_tokens == 2

    async def test_a_reply_to_a_schema_is_json_that_satisfies_it(self, model: LanguageModel) -> None:
        options = GenerationOptions(max_tokens=60, json_schema=PERSON)
        deltas = await read(model, [Message("user", "Bob is five years old. Say so in JSON.")], options)
        reply = json.loads("".join(delta.text for delta in deltas))
        assert set(reply) == {"name", "age"}
        assert isinstance(reply["name"], str)
        assert 0 <= reply["age"] <= 120

    async def test_leaving_a_reply_early_leaves_the_model_usable(self, model: LanguageModel) -> None:
        async with aclosing(model.stream(QUESTION, GenerationOptions(max_tokens=2000))) as stream:  # type: ignore[type-var]
            assert (await anext(stream)).text
        assert (await read(model, QUESTION, SHORT))[-1].finish_reason

    async def test_a_prompt_beyond_the_context_is_refused_with_numbers(self, model: LanguageModel) -> None:
        prompt = [Message("user", "word " * (model.context_tokens + 10))]
        with pytest.raises(InvalidInputError, match=rf"\b{model.context_tokens}\b"):
            await read(model, prompt, SHORT)

    async def test_a_reply_that_takes_too_long_is_given_up(self, model: LanguageModel) -> None:
        with pytest.raises(ModelServiceError, match=r"did not finish within 0\.001 s"):
            await read(model, QUESTION, GenerationOptions(max_tokens=50, timeout_seconds=0.001))

    async def test_tokens_are_counted_per_text(self, model: LanguageModel) -> None:
        counts = await model.count_tokens(["", "hello", "hello there, how are you today?"])
        assert counts[0] == 0
        assert 1 <= counts[1] < counts[2]

    async def test_it_says_what_it_is(self, model: LanguageModel) -> None:
        assert model.name
        assert model.context_tokens > 0

    async def test_closing_twice_does_no_harm(self, model: LanguageModel) -> None:
        await read(model, QUESTION, GenerationOptions(max_tokens=2))
        await model.close()
        await model.close()


class ModelService(Protocol):
    """The scripted service behind an adapter: a real server on loopback that fails as told, request by request."""

    def fail(
        self, kind: str, *, status: int = 500, headers: Mapping[str, str] | None = None, pieces: int = 0
    ) -> None:
        """Spoil the next request: ``status``, ``hang``, ``cut``, ``stall``, ``end``, ``malformed``; the last four after so
        many pieces of the reply."""
        ...

    def run_script(self, reply: str) -> None:
        """The text of the next reply that is not spoilt."""
        ...

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What was asked, in order."""
        ...

    @property
    def broken_off(self) -> bool:
        """A client closed its connection before it had the whole reply."""
        ...


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110  a server's thread cannot set its event
        await asyncio.sleep(0.02)
    assert condition()


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


class HttpModelContract(LanguageModelContract):
    """``model`` tries twice again, waits half a second for a piece, appends what it would sleep to ``waits``, and pays
    1 and 2 dollars for a million tokens of prompt and reply. ``gone`` is one whose service is not there."""

    @pytest.fixture
    def waits(self) -> list[float]:
        return []

    async def test_a_reply_costs_what_its_tokens_cost(self, model: LanguageModel) -> None:
        usage = (await read(model, QUESTION, SHORT))[-1].usage
        assert usage is not None
        assert usage.cost_usd == pytest.approx((usage.prompt_tokens + 2 * usage.completion_tokens) / 1e6)

    async def test_options_reach_the_service(self, model: LanguageModel, service: ModelService) -> None:
        options = GenerationOptions(
            max_tokens=9, temperature=0.3, seed=4, stop=("END",), json_schema={"type": "object"}
        )
        with suppress(ModelServiceError):
            await read(model, QUESTION, options)
        body = service.bodies[0]
        assert (body["max_tokens"], body["temperature"], body["seed"], body["stop"]) == (9, 0.3, 4, ["END"])
        assert body["messages"][0] == {"role": "system", "content": QUESTION[0].content}
        assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}

    @pytest.mark.parametrize("status", [429, 503])
    async def test_the_wait_a_busy_service_asks_for_is_kept(
        self, model: LanguageModel, service: ModelService, waits: list[float], status: int
    ) -> None:
        service.fail("status", status=status, headers={"Retry-After": "7"})
        assert text_of(await read(model, QUESTION, SHORT)) == SKY
        assert len(waits) == 1
        assert 7 <= waits[0] < 8

    @pytest.mark.parametrize("kind", ["status", "cut", "hang", "stall"])
    async def test_a_failure_before_the_first_word_is_tried_again(
        self, model: LanguageModel, service: ModelService, waits: list[float], kind: str
    ) -> None:
        service.fail(kind, status=500)
        assert text_of(await read(model, QUESTION, SHORT)) == SKY
        assert len(service.bodies) == 2
        assert 0.2 <= waits[0] <= 0.5, "half of it fixed, half of it by chance"

    async def test_a_busy_service_that_stays_so_is_told_apart(
        self, model: LanguageModel, service: ModelService, waits: list[float]
    ) -> None:
        for _ in range(3):
            service.fail("status", status=429, headers={"Retry-After": "3"})
        with pytest.raises(ModelServiceError, match=r"before the first word.*attempt 3 of 3") as caught:
            await read(model, QUESTION, SHORT)
        assert (caught.value.reason, caught.value.retry_after) == ("busy", 3.0)
        assert len(waits) == 2

    async def test_a_wait_beyond_the_deadline_is_not_begun(
        self, model: LanguageModel, service: ModelService, waits: list[float]
    ) -> None:
        service.fail("status", status=429, headers={"Retry-After": "60"})
        with pytest.raises(ModelServiceError, match="attempt 1 of 3") as caught:
            await read(model, QUESTION, GenerationOptions(timeout_seconds=30))
        assert caught.value.retry_after == 60
        assert waits == []

    async def test_a_service_that_keeps_silent_is_a_time_out(
        self, model: LanguageModel, service: ModelService
    ) -> None:
        for _ in range(3):
            service.fail("hang")
        with pytest.raises(ModelServiceError) as caught:
            await read(model, QUESTION, SHORT)
        assert caught.value.reason == "timeout"

    @pytest.mark.parametrize("kind", ["cut", "stall", "end", "malformed"])
    async def test_a_failure_in_mid_reply_says_how_much_came_and_is_not_tried_again(
        self, model: LanguageModel, service: ModelService, kind: str
    ) -> None:
        service.fail(kind, pieces=3)
        shown: list[str] = []

        async def show(model: LanguageModel) -> None:
            async for delta in model.stream(QUESTION, SHORT):
                shown.append(delta.text)  # noqa: PERF401  what came before the failure counts

        with pytest.raises(ModelServiceError, match="after 20 characters of the reply"):
            await show(model)
        assert "".join(shown) == SKY[:20]
        assert len(service.bodies) == 1

    async def test_nonsense_before_the_first_word_is_an_error(
        self, model: LanguageModel, service: ModelService
    ) -> None:
        service.fail("malformed")
        with pytest.raises(ModelServiceError, match="not a chat completion chunk before the first word"):
            await read(model, QUESTION, SHORT)

    async def test_a_reply_that_is_not_the_json_asked_for_is_an_error(
        self, model: LanguageModel, service: ModelService
    ) -> None:
        service.run_script("Sure! Here is your JSON: {")
        with pytest.raises(ModelServiceError, match="asked for JSON"):
            await read(model, QUESTION, GenerationOptions(json_schema={"type": "object"}))

    async def test_a_service_that_is_not_there_is_one_clear_error(self, gone: LanguageModel) -> None:
        with pytest.raises(ModelServiceError, match="failed before the first word"):
            await read(gone, QUESTION, SHORT)

    async def test_leaving_closes_the_connection_so_that_the_service_can_stop(
        self, model: LanguageModel, service: ModelService
    ) -> None:
        service.run_script("word " * 2000)
        async with aclosing(model.stream(QUESTION, GenerationOptions(max_tokens=2000))) as stream:  # type: ignore[type-var]
            await anext(stream)
        await until(lambda: service.broken_off)

    async def test_a_cancelled_task_closes_the_connection_too(
        self, model: LanguageModel, service: ModelService
    ) -> None:
        service.run_script("word " * 2000)
        started = asyncio.Event()

        async def consume() -> None:
            async for _ in model.stream(QUESTION, GenerationOptions(max_tokens=2000)):
                started.set()

        task = asyncio.create_task(consume())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: service.broken_off)

    async def test_a_reply_that_takes_too_long_as_a_whole_is_ended_on_both_sides(
        self, model: LanguageModel, service: ModelService
    ) -> None:
        service.run_script("word " * 2000)
        # On a busy machine the time may be over before the first word.
        with pytest.raises(
            ModelServiceError, match=r"did not finish within 0\.3 s \((after|before)"
        ) as caught:
            await read(model, QUESTION, GenerationOptions(max_tokens=2000, timeout_seconds=0.3))
        assert caught.value.reason == "timeout"
        await until(lambda: service.broken_off)

    async def test_a_slow_reader_does_not_run_out_of_the_models_time(self, model: LanguageModel) -> None:
        text = ""
        async for delta in model.stream(QUESTION, GenerationOptions(timeout_seconds=5)):
            text += delta.text
            await asyncio.sleep(0.06)  # more than the service may keep silent, all together
        assert text == SKY

    async def test_many_replies_at_once_do_not_wait_for_each_other(
        self, model: LanguageModel, service: ModelService
    ) -> None:
        replies = await asyncio.gather(*(read(model, QUESTION, SHORT) for _ in range(20)))
        assert {text_of(deltas) for deltas in replies} == {SKY}

    async def test_the_event_loop_goes_on_meanwhile(
        self, model: LanguageModel, service: ModelService
    ) -> None:
        async def lateness() -> float:
            """Seconds that the loop was held up at the most, while the service kept silent for half a second."""
            late = 0.0

            async def watch() -> None:
                nonlocal late
                while True:
                    before = time.monotonic()
                    await asyncio.sleep(0.01)
                    late = max(late, time.monotonic() - before)

            service.fail("hang")
            watcher = asyncio.create_task(watch())
            await read(model, QUESTION, SHORT)
            watcher.cancel()
            return late

        # A loaded machine may hold up any process once; an adapter that blocks holds the loop up every time.
        assert any([await lateness() < 0.4 for _ in range(3)])

    async def test_too_long_a_prompt_is_the_callers_error(self, model: LanguageModel) -> None:
        with pytest.raises(InvalidInputError, match="too long for tiny"):
            await read(model, [Message("user", "word " * CONTEXT_WORDS)], SHORT)
