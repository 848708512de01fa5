"""Drafts over HTTP: written to order, kept, edited by a person, compared, and what goes wrong."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llm_engineering.application.inference.drafting import FORMATS
from llm_engineering.domain.inference import Intent, RagResult
from tests.conformance.service_client import server_sent_events
from tests.conformance.test_service_rag import error_of
from tests.fakes.llm import ScriptedLanguageModel
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import TwinService, serving

REQUEST = "Chunk overlap"
DRAFT = "Overlap repeats the last sentences of a chunk at the start of the next chunk. Whales sing at night."


@pytest.fixture(scope="module")
def twin() -> TwinService:
    return TwinService(ScriptedLanguageModel(default=DRAFT))


@pytest.fixture(scope="module")
def client(twin: TwinService) -> Iterator[httpx.Client]:
    with serving(twin.app) as url, httpx.Client(base_url=url) as client:
        yield client


def prompt_of(twin: TwinService) -> str:
    """What the model was asked last."""
    assert isinstance(twin.model, ScriptedLanguageModel)
    return "\n".join(message.content for message in twin.model.calls[-1].messages)


class TestWriting:
    def test_a_draft_comes_as_an_answer_of_rag_does(self, client: httpx.Client) -> None:
        result = RagResult.model_validate(client.post("/write", json={"request": REQUEST}).json())
        assert result.provenance.intent is Intent.WRITE
        assert result.answer.text == DRAFT
        assert [support.verdict.value for support in result.answer.supports] == ["supported", "unsupported"]
        assert result.answer.citations[0].passage.title == "Chunk overlap"

    def test_what_is_stated_apart_wins_over_the_words(self, client: httpx.Client, twin: TwinService) -> None:
        body = {
            "request": "Write a newsletter of 300 words about chunk overlap",
            "author": "Ben Okafor",
            "format": "outline",
            "length": 77,
        }
        assert client.post("/write", json=body).status_code == 200
        asked = prompt_of(twin)
        assert "Ben Okafor" in asked
        assert "an outline" in asked
        assert "77 words" in asked
        assert "newsletter" not in asked

    def test_the_filter_says_whose_texts_and_the_author_whose_voice(
        self, client: httpx.Client, twin: TwinService
    ) -> None:
        body = {"request": REQUEST, "author": "Ben Okafor", "filter": {"authors": ["Ada Winter"]}}
        result = client.post("/write", json=body).json()
        assert "Ben Okafor" in prompt_of(twin)
        assert {c["passage"]["author"] for c in result["answer"]["citations"]} == {"Ada Winter"}

    def test_the_stream_has_the_events_of_rag(self, client: httpx.Client) -> None:
        events = server_sent_events(client.post("/write/stream", json={"request": REQUEST}).text)
        assert events[0].name == "sources"
        assert events[-1].name == "done"
        result = RagResult.model_validate(events[-1].data)
        assert "".join(e.data["text"] for e in events if e.name == "delta") == result.answer.text == DRAFT

    def test_an_order_about_the_text_before_it_rewrites_that(
        self, client: httpx.Client, twin: TwinService
    ) -> None:
        turns = [
            {"role": "user", "content": "Chunk overlap"},
            {"role": "assistant", "content": "Overlap keeps every sentence whole."},
        ]
        client.post("/write", json={"request": "Make it shorter", "history": turns})
        assert "Overlap keeps every sentence whole." in prompt_of(twin)

    def test_a_given_text_is_rewritten_however_long_the_order(
        self, client: httpx.Client, twin: TwinService
    ) -> None:
        order = "Say it in half of the words, leave the last example out, and begin with what a reader gains"
        body = {"request": order, "text": "Overlap keeps every sentence whole.", "author": "Ben Okafor"}
        result = client.post("/write", json=body).json()
        asked = prompt_of(twin)
        assert "Overlap keeps every sentence whole." in asked
        assert order in asked
        assert [c["passage"]["document_id"] for c in result["answer"]["citations"]] == ["given"]

    @pytest.mark.parametrize("path", ["/write", "/write/stream"])
    def test_an_unknown_format_names_those_that_exist(self, client: httpx.Client, path: str) -> None:
        response = client.post(path, json={"request": REQUEST, "format": "sonnet"})
        assert response.status_code == 422
        error = error_of(response)
        assert error["code"] == "invalid_request"
        for name in FORMATS:
            assert name in error["message"]

    @pytest.mark.parametrize("path", ["/write", "/write/stream"])
    def test_an_unknown_author_names_the_closest(self, client: httpx.Client, path: str) -> None:
        response = client.post(path, json={"request": REQUEST, "author": "Ada Wintr"})
        assert response.status_code == 422
        error = error_of(response)
        assert error["code"] == "unknown_filter_value"
        assert "Ada Winter" in error["message"]

    @pytest.mark.parametrize(
        ("body", "named"),
        [
            ({}, "request"),
            ({"request": " "}, "request"),
            ({"request": REQUEST, "length": 19}, "length"),
            ({"request": REQUEST, "length": 10_001}, "length"),
            ({"request": REQUEST, "length": "100"}, "length"),
            ({"request": REQUEST, "author": " "}, "author"),
            ({"request": REQUEST, "query": "x"}, "query"),
            ({"request": REQUEST, "intent": "write"}, "intent"),
            ({"request": REQUEST, "k": 3}, "k"),
        ],
    )
    def test_what_cannot_be_used_is_422_and_named(
        self, client: httpx.Client, body: dict[str, object], named: str
    ) -> None:
        response = client.post("/write", json=body)
        assert response.status_code == 422
        assert named in error_of(response)["message"]

    def test_drafts_count_against_the_same_budget_as_answers(self, tmp_path: Path) -> None:
        service = OperatedService(tmp_path, ScriptedLanguageModel(default=DRAFT), rate_per_minute=2)
        with serving(service.app) as url, httpx.Client(base_url=url) as client:
            assert client.post("/write", json={"request": REQUEST}).status_code == 200
            assert client.post("/rag", json={"query": REQUEST}).status_code == 200
            response = client.post("/write/stream", json={"request": REQUEST})
            assert response.status_code == 429
            assert error_of(response)["code"] == "rate_limited"

    def test_without_a_key_nothing_is_written(self, tmp_path: Path) -> None:
        service = OperatedService(tmp_path)
        key = service.keys.create("laptop")
        with serving(service.app) as url, httpx.Client(base_url=url) as client:
            for path in ("/write", "/write/stream"):
                assert client.post(path, json={"request": REQUEST}).status_code == 401
            headers = {"Authorization": f"Bearer {key}"}
            assert client.post("/write", json={"request": REQUEST}, headers=headers).status_code == 200
