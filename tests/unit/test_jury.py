"""A jury: judges that fail, budgets that end, replies that are kept; none of it ends the run or loses anything unsaid."""

import json
from collections.abc import Sequence

import pytest
from pydantic import TypeAdapter, ValidationError

from llm_engineering.application.llm.batch import LlmRequest, run_in_order
from llm_engineering.application.llm.budget import Budget
from llm_engineering.application.llm.judges import (
    JudgeBatchConfig,
    JudgeNames,
    Jury,
    JuryReport,
    MissingVerdict,
)
from llm_engineering.application.llm.structured_output import UnusableReplyError, parse_json_object
from llm_engineering.application.ports import GenerationOptions, LanguageModel, Message
from llm_engineering.domain.errors import ConfigurationError, StoreUnavailableError
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.warehouse import FakeWarehouse

GOOD = '{"score":3}'
ITEMS = 20


def ask(judge: str, number: int) -> LlmRequest[int]:
    messages = (Message("user", f"Judge this: {number}"),)
    return LlmRequest(f"{judge}/{number}", messages, GenerationOptions(max_tokens=8), "rubric", read)


def read(text: str) -> int:
    return int(parse_json_object(text)["score"])


def jury(
    judges: Sequence[LanguageModel],
    store: FakeWarehouse | None = None,
    asking: JudgeBatchConfig | None = None,
) -> Jury:
    return Jury(judges, store or FakeWarehouse(), asking or JudgeBatchConfig(concurrency=1), stage="judge")


async def ask_all(of: Jury, items: int = ITEMS) -> tuple[list[int | MissingVerdict], JuryReport]:
    calls = [(name, ask(name, number)) for number in range(items) for name in of.names]

    async def one(call: tuple[str, LlmRequest[int]]) -> int | MissingVerdict:
        return await of.request_verdict(*call)

    found = [opinion async for opinion in run_in_order(calls, one, of.max_in_flight)]
    return found, await of.finish()


def spoiled(messages: Sequence[Message]) -> str:
    """Thirty per cent of the replies."""
    return "well, " if int(messages[-1].content.split()[-1]) % 10 in (0, 3, 6) else GOOD


class TestFaults:
    async def test_half_of_the_jury_is_down_and_the_rest_goes_on(self) -> None:
        down = ScriptedLanguageModel([Reply(fail_after=0)] * 100, name="down")
        up = ScriptedLanguageModel(default=GOOD, name="up")
        store = FakeWarehouse()
        opinions, report = await ask_all(jury([down, up], store))
        assert opinions[1::2] == [3] * ITEMS
        assert all(isinstance(one, MissingVerdict) for one in opinions[::2])
        assert len(down.calls) <= 13  # ten failures in a row, and what was under way by then
        one, other = report.judges
        assert (one.received, one.missing, one.missing_share) == (0, ITEMS, 1)
        assert "seems to be down" in one.disabled_reason
        assert (other.received, other.missing, other.disabled_reason) == (ITEMS, 0, "")

    async def test_thirty_per_cent_of_nonsense_costs_those_opinions_and_is_counted(self) -> None:
        model = ScriptedLanguageModel(default=spoiled, name="drunk")
        store = FakeWarehouse()
        opinions, report = await ask_all(jury([model], store))
        [record] = report.judges
        assert [isinstance(one, MissingVerdict) for one in opinions] == [
            n % 10 in (0, 3, 6) for n in range(ITEMS)
        ]
        assert record.missing_share == pytest.approx(0.3)
        assert record.unusable_replies == 12  # six, each asked for twice
        assert record.disabled_reason == ""
        assert store.dead_letters.count() == 6
        silent = opinions[0]
        assert isinstance(silent, MissingVerdict)
        assert (silent.why, "no JSON" in silent.detail) == ("unusable", True)

    async def test_a_second_attempt_may_save_an_opinion(self) -> None:
        model = ScriptedLanguageModel(["nonsense"], default=GOOD)
        opinions, report = await ask_all(jury([model]), 1)
        assert opinions == [3]
        assert (report.judges[0].missing, report.judges[0].unusable_replies) == (0, 1)

    async def test_a_price_budget_without_prices_silences_the_judge_and_says_what_to_set(self) -> None:
        of = jury(
            [ScriptedLanguageModel(default=GOOD)],
            asking=JudgeBatchConfig(concurrency=1, budget=Budget(usd=1)),
        )
        opinions, report = await ask_all(of, 3)
        assert all(isinstance(one, MissingVerdict) and one.why == "down" for one in opinions)
        assert "JUDGE_PROMPT_PRICE" in report.judges[0].disabled_reason

    async def test_a_store_that_is_down_ends_the_run_since_nothing_could_be_kept(self) -> None:
        store = FakeWarehouse()
        store.down = True
        with pytest.raises(StoreUnavailableError):
            await ask_all(jury([ScriptedLanguageModel(default=GOOD)], store), 1)

    @pytest.mark.parametrize("text", ["", "[1]", "null", "4", "{'score': 4}", '{"score": 4', "[" * 100_000])
    def test_what_is_no_object_cannot_be_used(self, text: str) -> None:
        with pytest.raises(UnusableReplyError, match="no JSON"):
            parse_json_object(text)


class TestResuming:
    async def test_a_second_run_asks_nothing_and_counts_what_came_from_the_cache(self) -> None:
        store, model = FakeWarehouse(), ScriptedLanguageModel(default=GOOD)
        _, first = await ask_all(jury([model], store))
        opinions, second = await ask_all(jury([model], store))
        assert opinions == [3] * ITEMS
        assert len(model.calls) == ITEMS
        assert (first.judges[0].from_cache, second.judges[0].from_cache) == (0, ITEMS)
        assert (second.requests, second.tokens, second.cached_tokens) == (0, 0, first.tokens)

    @pytest.mark.parametrize("killed_after", [1, 7, 33])
    async def test_a_killed_run_goes_on_where_it_was_and_asks_no_judge_twice(self, killed_after: int) -> None:
        class Killed(BaseException):
            """As a signal would end the process."""

        store, asked = FakeWarehouse(), list[tuple[str, str]]()

        def judges(limit: int) -> list[LanguageModel]:
            def reply(name: str, messages: Sequence[Message]) -> str:
                if len(asked) == limit:
                    raise Killed
                asked.append((name, messages[-1].content))
                return json.dumps({"score": len(name)})

            return [
                ScriptedLanguageModel(default=lambda m, n=name: reply(n, m), name=name)  # type: ignore[misc]
                for name in ("a", "bb")
            ]

        with pytest.raises(Killed):
            await ask_all(jury(judges(killed_after), store))
        opinions, report = await ask_all(jury(judges(10_000), store))
        assert opinions == [1, 2] * ITEMS
        assert len(asked) == len(set(asked)) == 2 * ITEMS
        assert sum(record.from_cache for record in report.judges) == killed_after

    async def test_a_budget_ends_the_asking_says_so_and_a_later_run_goes_on(self) -> None:
        store, models = FakeWarehouse(), [ScriptedLanguageModel(default=GOOD, name=name) for name in "ab"]
        asking = JudgeBatchConfig(concurrency=1, attempts=1, budget=Budget(tokens=60))
        opinions, report = await ask_all(jury(models, store, asking))
        given = sum(one == 3 for one in opinions)
        assert 0 < given < 2 * ITEMS
        assert report.tokens <= 60
        assert report.tokens + 3 + 8 > 60
        assert "budget of 60 tokens is spent" in report.stopped
        assert sum(record.not_asked for record in report.judges) == 2 * ITEMS - given
        assert [record.missing_share for record in report.judges] == [0, 0]
        assert all(one == 3 or (isinstance(one, MissingVerdict) and one.why == "budget") for one in opinions)
        later, _ = await ask_all(jury(models, store))
        assert later == [3] * 2 * ITEMS
        assert sum(len(model.calls) for model in models) == 2 * ITEMS


class TestNames:
    @pytest.mark.parametrize(
        "names", [("judge",), ("judge2", "llm"), ("judge", "judge:qwen2.5:7b", "judge3:a/b")]
    )
    def test_settings_and_models_at_their_address_are_named(self, names: tuple[str, ...]) -> None:
        assert TypeAdapter(JudgeNames).validate_python(names) == names

    @pytest.mark.parametrize("name", ["gpt-4o-mini", "judge4", "judge:", "llm:other", "", "judge: x"])
    def test_other_names_are_refused_with_those_that_there_are(self, name: str) -> None:
        with pytest.raises(ValidationError, match="expected judge, judge2 or judge3"):
            TypeAdapter(JudgeNames).validate_python((name,))

    def test_one_judge_twice_is_no_jury(self) -> None:
        with pytest.raises(ValidationError, match="named twice"):
            TypeAdapter(JudgeNames).validate_python(("judge", "judge"))
        with pytest.raises(ConfigurationError, match="has same twice"):
            jury([ScriptedLanguageModel(name="same"), ScriptedLanguageModel(name="same")])

    async def test_closing_closes_every_judge(self) -> None:
        models = [ScriptedLanguageModel(name=name) for name in "ab"]
        await jury(models).close()
        assert [model.closed for model in models] == [1, 1]
