"""What every language model keeps. An adapter's tests inherit the class and give the fixture ``model``.

``model`` must answer a request for "JSON" with an object that has a name and an age, and anything else with at least
three words.
"""

import json
from contextlib import aclosing

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
