"""The OpenAI-compatible routes, through the official client, an outside conformance suite, and the wire."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from llm_engineering.domain.errors import ModelServiceError
from llm_engineering.domain.retrieval import Citation
from llm_engineering.infrastructure.api.openai_chat import to_request
from llm_engineering.infrastructure.api.schemas.openai import REFUSED, ChatBody
from tests.conformance.service_client import eventually, server_sent_events
from tests.fakes.index import FakeVectorIndex
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import ANSWER, QUESTION, TwinService, serving

SOURCES = "\n\nSources:\n[1] Chunk overlap — https://ada.example/chunk-overlap"
ASK: Any = [{"role": "user", "content": QUESTION}]
TWIN = "llm-twin"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(TwinService().app) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with asked(url) as client:
        yield client


def asked(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


class TestCompletion:
    def test_is_the_answer_with_its_sources_and_usage(self, client: openai.OpenAI) -> None:
        reply = client.chat.completions.create(model=TWIN, messages=ASK)
        assert reply.object == "chat.completion"
        assert reply.model == TWIN
        assert reply.choices[0].message.content == ANSWER + SOURCES
        assert reply.choices[0].message.role == "assistant"
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage is not None
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
        assert reply.usage.completion_tokens == len(ANSWER.split())

    def test_the_field_twin_tells_what_openai_has_no_field_for(self, client: openai.OpenAI) -> None:
        reply = client.chat.completions.create(model=TWIN, messages=ASK)
        twin = (reply.model_extra or {})["twin"]
        assert reply.id == f"chatcmpl-{twin['trace_id']}"
        assert Citation.model_validate(twin["citations"][0]).passage.title == "Chunk overlap"
        assert twin["cited"] == [1]
        assert twin["provenance"]["model"] == "scripted"
        assert twin["abstained"] is False

    def test_the_field_twin_asks_what_openai_has_no_field_for(self, client: openai.OpenAI) -> None:
        options = {"k": 1, "mode": "sparse", "filter": {"authors": ["Ada Winter"]}, "sources_in_text": False}
        reply = client.chat.completions.create(model=TWIN, messages=ASK, extra_body={"twin": options})
        twin = (reply.model_extra or {})["twin"]
        assert twin["provenance"]["mode"] == "sparse"
        assert twin["provenance"]["filter"]["authors"] == ["Ada Winter"]
        assert len(twin["citations"]) == 1
        assert "Sources:" not in (reply.choices[0].message.content or "")

    def test_a_cut_answer_says_so(self) -> None:
        with serving(TwinService(ScriptedLanguageModel([ANSWER])).app) as url, asked(url) as client:
            reply = client.chat.completions.create(model=TWIN, messages=ASK, max_completion_tokens=7)
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 7

    def test_labels_and_neutral_values_are_taken(self, client: openai.OpenAI) -> None:
        reply = client.chat.completions.create(
            model=TWIN,
            messages=[{"role": "user", "content": [{"type": "text", "text": QUESTION}], "name": "ada"}],
            user="u-1",
            metadata={"team": "search"},
            store=False,
            n=1,
            top_p=1,
            presence_penalty=0,
            frequency_penalty=0,
            logprobs=False,
            response_format={"type": "text"},
            stop=[],
            seed=7,
            temperature=0.2,
            service_tier="auto",
        )
        assert reply.choices[0].message.content == ANSWER + SOURCES

    async def test_the_asynchronous_client_reads_the_same(self, url: str) -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            reply = await client.chat.completions.create(model=TWIN, messages=ASK)
            stream = await client.chat.completions.create(model=TWIN, messages=ASK, stream=True)
            text = "".join([c.choices[0].delta.content or "" async for c in stream])
        assert reply.choices[0].message.content == text == ANSWER + SOURCES


class TestConversation:
    def request(self, *messages: dict[str, Any], **fields: Any) -> Any:
        body = {"model": TWIN, "messages": list(messages), **fields}
        parsed = ChatBody.model_validate_json(json.dumps(body), strict=True)
        return to_request(parsed, TwinService().parts.retrieval)

    def test_instructions_history_and_question_are_told_apart(self) -> None:
        request = self.request(
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi. [1]" + SOURCES, "refusal": None, "annotations": []},
            {
                "role": "developer",
                "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "kind."}],
            },
            {"role": "user", "content": QUESTION},
        )
        assert request.instructions == "Be brief.\n\nBe\nkind."
        assert [(turn.role, turn.content) for turn in request.history] == [
            ("user", "Hello"),
            ("assistant", "Hi. [1]"),
        ]
        assert request.query.text == QUESTION

    def test_of_a_long_conversation_the_last_turns_are_taken(self) -> None:
        turns = [{"role": ("user", "assistant")[n % 2], "content": f"turn {n}"} for n in range(400)]
        request = self.request(*turns, {"role": "user", "content": QUESTION})
        assert [turn.content for turn in request.history] == [f"turn {n}" for n in range(300, 400)]

    def test_the_newer_name_of_the_token_limit_wins(self) -> None:
        question = {"role": "user", "content": QUESTION}
        assert self.request(question, max_tokens=9, max_completion_tokens=5).max_tokens == 5
        assert self.request(question, max_tokens=9).max_tokens == 9

    @pytest.mark.parametrize(
        ("messages", "named"),
        [
            ([], "messages"),
            ([{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "So"}], "messages[1]"),
            ([{"role": "system", "content": "x"}], "messages[0]"),
            ([{"role": "tool", "content": "x", "tool_call_id": "1"}], "messages[0]"),
            (
                [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
                "messages[0].content[0].type",
            ),
            ([{"role": "user", "content": []}], "messages[0].content"),
            ([{"role": "user"}], "messages[0].content"),
        ],
    )
    def test_what_is_no_question_is_refused_by_name(
        self, client: openai.OpenAI, messages: Any, named: str
    ) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model=TWIN, messages=messages)
        assert refused.value.param == named


class TestStream:
    def test_chunks_come_in_the_order_of_the_protocol(self, url: str) -> None:
        body = {"model": TWIN, "messages": ASK, "stream": True, "stream_options": {"include_usage": True}}
        response = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        *chunks, done = [event.data for event in server_sent_events(response.text)]
        assert done == "[DONE]"
        role, *text, finish, usage = chunks
        assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert all(list(chunk["choices"][0]["delta"]) == ["content"] for chunk in text)
        assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in text) == ANSWER + SOURCES
        assert finish["choices"][0]["delta"] == {}
        assert finish["choices"][0]["finish_reason"] == "stop"
        assert finish["twin"]["cited"] == [1]
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == len(ANSWER.split())
        assert all(chunk["usage"] is None for chunk in chunks[:-1])
        assert all(chunk["choices"][0]["finish_reason"] is None for chunk in [role, *text])
        assert (
            len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
        )

    def test_without_asking_there_is_no_usage(self, url: str) -> None:
        body = {"model": TWIN, "messages": ASK, "stream": True}
        text = httpx.post(f"{url}/v1/chat/completions", json=body).text
        assert "usage" not in text.replace('"usage":{"prompt', "")
        assert server_sent_events(text)[-1].data == "[DONE]"

    def test_the_clients_own_stream_helper_puts_the_answer_together(self, client: openai.OpenAI) -> None:
        options = {"include_usage": True}
        with client.chat.completions.stream(model=TWIN, messages=ASK, stream_options=options) as stream:  # type: ignore[arg-type]
            for _ in stream:
                pass
            reply = stream.get_final_completion()
        assert reply.choices[0].message.content == ANSWER + SOURCES
        assert reply.usage is not None

    def test_closing_the_clients_stream_ends_the_generation(self) -> None:
        model = ScriptedLanguageModel(
            [Reply(" ".join([ANSWER] * 3 + ["and more"] * 500), seconds_per_piece=0.01)]
        )
        with serving(TwinService(model).app) as url, asked(url) as client:
            stream = client.chat.completions.create(model=TWIN, messages=ASK, stream=True, max_tokens=1_000)
            assert any(chunk.choices[0].delta.content for chunk in stream)
            stream.close()
            assert eventually(lambda: model.calls[-1].cancelled)

    def test_a_model_that_fails_in_the_middle_is_an_error_of_the_client(self) -> None:
        said = f"{ANSWER} It keeps them whole. [1] And so on."
        model = ScriptedLanguageModel([Reply(said, fail_after=20, error="secret-host:8080 gave up")])
        shown: list[str] = []
        with serving(TwinService(model).app) as url, asked(url) as client:
            stream = client.chat.completions.create(model=TWIN, messages=ASK, stream=True)
            with pytest.raises(openai.APIError) as failed:
                shown.extend(chunk.choices[0].delta.content or "" for chunk in stream)
        assert "".join(shown).startswith(ANSWER)
        assert failed.value.code == "model_failed"
        assert "secret-host" not in str(failed.value)


class Failing(ScriptedLanguageModel):
    """A model service that fails as it was told."""

    def __init__(self, error: Exception) -> None:
        super().__init__(default="")
        self._error = error

    def _next(self, messages: object) -> Reply:
        raise self._error


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("n", 2),
            ("top_p", 0.9),
            ("frequency_penalty", 0.5),
            ("presence_penalty", -1),
            ("logprobs", True),
            ("logprobs", 0),
            ("n", True),
            ("top_logprobs", 3),
            ("logit_bias", {"50256": -100}),
            ("stop", ["\n"]),
            ("stop", "x"),
            ("modalities", ["text", "audio"]),
            ("response_format", {"type": "json_object"}),
            ("tools", [{"type": "function", "function": {"name": "f"}}]),
            ("tool_choice", "required"),
            ("functions", [{"name": "f"}]),
            ("function_call", {"name": "f"}),
            ("audio", {"voice": "x"}),
            ("prediction", {"type": "content", "content": "x"}),
            ("web_search_options", {}),
            ("reasoning_effort", "high"),
            ("verbosity", "low"),
        ],
    )
    def test_what_would_change_the_answer_is_refused_by_name(
        self, client: openai.OpenAI, name: str, value: Any
    ) -> None:
        assert name in REFUSED
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model=TWIN, messages=ASK, extra_body={name: value})
        assert refused.value.param == name
        assert refused.value.code == "unsupported_parameter"
        assert refused.value.type == "invalid_request_error"

    def test_what_is_not_known_is_refused_by_name(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model=TWIN, messages=ASK, extra_body={"twin": {"filters": {}}})
        assert refused.value.param == "twin.filters"

    def test_an_unknown_filter_value_is_the_callers_fault(self, client: openai.OpenAI) -> None:
        chosen = {"filter": {"languages": ["xx"]}}
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model=TWIN, messages=ASK, extra_body={"twin": chosen}, stream=True)
        assert refused.value.code == "unknown_filter_value"

    def test_each_model_that_is_served_can_be_named(self) -> None:
        second = ScriptedLanguageModel(default="By the second.", name="second")
        twin = TwinService(more_models=[second])
        with serving(twin.app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client:
            assert [model.id for model in client.models.list()] == [TWIN, "scripted", "second"]
            said = client.chat.completions.create(model="second", messages=ASK).choices[0].message.content
            assert said is not None
            assert said.startswith("By the second.")

    def test_another_model_is_not_found(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="gpt-4o", messages=ASK)
        assert missing.value.code == "model_not_found"
        assert missing.value.param == "model"
        assert missing.value.request_id

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (ModelServiceError("x"), 502),
            (ModelServiceError("x", reason="timeout"), 504),
            (ModelServiceError("x", reason="busy"), 503),
            (RuntimeError("x"), 500),
        ],
        ids=["failed", "late", "busy", "broken"],
    )
    def test_failures_inside_are_server_errors(self, error: Exception, status: int) -> None:
        with (
            serving(TwinService(Failing(error)).app) as url,
            asked(url) as client,
            pytest.raises(openai.InternalServerError) as failed,
        ):
            client.chat.completions.create(model=TWIN, messages=ASK)
        assert failed.value.status_code == status
        assert failed.value.type == "server_error"

    def test_a_missing_index_is_unavailable(self) -> None:
        with (
            serving(TwinService(index=FakeVectorIndex()).app) as url,
            asked(url) as client,
            pytest.raises(openai.InternalServerError, match="run-feature-engineering-pipeline"),
        ):
            client.chat.completions.create(model=TWIN, messages=ASK, stream=True)

    def test_a_wrong_key_and_too_many_requests_are_the_clients_own_errors(self, tmp_path: Path) -> None:
        service = OperatedService(tmp_path, rate_per_minute=2)
        key = service.keys.create("laptop")
        with serving(service.app) as url:
            with asked(url, "wrong") as client, pytest.raises(openai.AuthenticationError):
                client.chat.completions.create(model=TWIN, messages=ASK)
            with asked(url, key) as client:
                for _ in range(2):
                    client.chat.completions.create(model=TWIN, messages=ASK)
                with pytest.raises(openai.RateLimitError) as limited:
                    client.chat.completions.create(model=TWIN, messages=ASK)
        assert int(limited.value.response.headers["retry-after"]) > 0


class TestModels:
    def test_the_twin_and_the_model_behind_it_are_listed(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == [TWIN, "scripted"]
        assert client.models.retrieve("scripted").owned_by == TWIN
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nobody/nothing")

    def test_the_name_that_was_asked_for_is_echoed(self, client: openai.OpenAI) -> None:
        assert client.chat.completions.create(model="scripted", messages=ASK).model == "scripted"

    def test_a_name_with_slashes_can_be_looked_up(self) -> None:
        model = ScriptedLanguageModel(default=ANSWER, name="org/model-1.7B:q4")
        with serving(TwinService(model).app) as url, asked(url) as client:
            assert client.models.retrieve("org/model-1.7B:q4").id == "org/model-1.7B:q4"


def test_an_outside_suite_finds_the_protocol_kept(url: str) -> None:
    """``llm-comply``, all of its chat tests that a service of text without tools can pass."""
    cases = (
        "chat-basic-response,chat-system-prompt,chat-multi-turn,chat-streaming-response,chat-streaming-usage,"
        "chat-error-handling"
    )
    program = [sys.executable, "-m", "llm_comply.cli", "--json", "--format", "openai-chat"]
    ran = subprocess.run(
        [*program, "-u", f"{url}/v1", "-k", "none", "-m", TWIN, "-f", cases],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads(ran.stdout)
    assert report["summary"]["passed"] == len(cases.split(",")), ran.stdout
