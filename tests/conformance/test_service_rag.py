"""The service over HTTP: search, answers, streams, votes, and what goes wrong."""

import json
import re
from collections.abc import Iterator, Sequence

import httpx
import pytest

from llm_engineering.application.inference.writers import NOTHING_FOUND
from llm_engineering.application.ports import Message, Vectors
from llm_engineering.domain.errors import (
    FingerprintMismatchError,
    ModelError,
    ModelServiceError,
    StoreError,
    StoreUnavailableError,
)
from llm_engineering.domain.inference import RagResult, SearchResult
from llm_engineering.domain.retrieval import Hit
from tests.conformance.service_client import server_sent_events
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.service import ANSWER, QUESTION, TwinService, serving, write


@pytest.fixture(scope="module")
def twin() -> TwinService:
    return TwinService()


@pytest.fixture(scope="module")
def client(twin: TwinService) -> Iterator[httpx.Client]:
    with serving(twin.app) as url, httpx.Client(base_url=url) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, str]:
    """The error of a response, whose shape and request id are checked."""
    error: dict[str, str] = response.json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    return error


class TestSearch:
    def test_finds_passages_and_says_how(self, client: httpx.Client) -> None:
        response = client.post("/search", json={"query": QUESTION, "k": 2})
        assert response.status_code == 200
        result = SearchResult.model_validate(response.json())
        assert result.hits[0].chunk.title == "Chunk overlap"
        assert len(result.hits) == 2
        assert result.provenance.mode == "hybrid"
        assert result.provenance.embedder == "hash-words"
        assert "x-twin-degraded" not in response.headers

    def test_mode_and_fusion_are_the_callers(self, client: httpx.Client) -> None:
        body = {"query": QUESTION, "mode": "dense", "fusion": {"kind": "weighted", "alpha": 0.25}}
        provenance = client.post("/search", json=body).json()["provenance"]
        assert provenance["mode"] == "dense"
        assert provenance["fusion"] == {"kind": "weighted", "alpha": 0.25}

    def test_the_filter_narrows(self, client: httpx.Client) -> None:
        body = {"query": "Katze", "filter": {"languages": ["de"], "authors": ["Ben Okafor"]}}
        hits = client.post("/search", json=body).json()["hits"]
        assert [hit["chunk"]["title"] for hit in hits] == ["Katzen"]

    @pytest.mark.parametrize(
        ("published_from", "published_to", "found"),
        [
            ("2026-05-02", "2026-05-02", True),  # a day counts whole
            ("2026-05-02T12:30:00Z", "2026-05-02T12:30:00Z", True),
            ("2026-05-02T12:30:01Z", "2026-05-03", False),
            ("2026-05-02T14:30:00+02:00", "2026-05-02T14:30:00+02:00", True),
            ("2026-05-01", "2026-05-01", False),
        ],
    )
    def test_dates_mean_whole_days_and_times_are_exact(
        self, client: httpx.Client, published_from: str, published_to: str, found: bool
    ) -> None:
        chosen = {"published_from": published_from, "published_to": published_to}
        response = client.post("/search", json={"query": "hybrid search", "filter": chosen})
        titles = [hit["chunk"]["title"] for hit in response.json()["hits"]]
        assert titles == (["Hybrid search"] if found else [])


class TestAnswer:
    def test_is_grounded_cited_and_says_what_it_was_made_with(self, client: httpx.Client) -> None:
        result = RagResult.model_validate(client.post("/rag", json={"query": QUESTION}).json())
        assert result.answer.text == ANSWER
        assert result.answer.cited == (1,)
        assert result.answer.citations[0].passage.title == "Chunk overlap"
        assert result.provenance.model == "scripted"
        assert result.provenance.prompt_hash == result.answer.prompt_hash != ""
        assert result.timings["total"] >= result.timings["first_token"] > 0

    def test_the_callers_token_limit_holds(self) -> None:
        model = ScriptedLanguageModel([ANSWER])
        with serving(TwinService(model).app) as url:
            body = {"query": QUESTION, "max_tokens": 7}
            answer = httpx.post(f"{url}/rag", json=body).json()["answer"]
        assert model.calls[-1].options.max_tokens == 7
        assert answer["usage"]["completion_tokens"] == 7

    @pytest.mark.parametrize(
        ("path", "body"),
        [("/rag", {"query": QUESTION}), ("/write", {"request": "Chunk overlap"})],
    )
    def test_the_caller_may_choose_among_the_models_that_are_served(
        self, path: str, body: dict[str, str]
    ) -> None:
        first = ScriptedLanguageModel(default="By the first.", name="first")
        second = ScriptedLanguageModel(default="By the second.", name="second")
        with serving(TwinService(first, more_models=[second]).app) as url:
            assert httpx.get(f"{url}/info").json()["models"] == ["first", "second"]
            for name, said in (
                (None, "By the first."),
                ("first", "By the first."),
                ("second", "By the second."),
            ):
                result = httpx.post(f"{url}{path}", json={**body, "model": name}).json()
                assert result["answer"]["text"] == said
                assert result["provenance"]["model"] == (name or "first")
            refused = httpx.post(f"{url}{path}", json={**body, "model": "third"})
            assert refused.status_code == 422
            assert "first, second" in error_of(refused)["message"]

    def test_a_question_that_the_sources_do_not_answer_is_not_answered(self, client: httpx.Client) -> None:
        answer = client.post("/rag", json={"query": "zzz qqq xxx"}).json()["answer"]
        assert answer["text"] == NOTHING_FOUND
        assert answer["abstained"]


class TestStream:
    def test_sources_come_first_and_the_deltas_are_the_answer(self, client: httpx.Client) -> None:
        response = client.post("/rag/stream", json={"query": QUESTION})
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        events = server_sent_events(response.text)
        assert events[0].name == "sources"
        assert events[-1].name == "done"
        assert {event.name for event in events[1:-1]} <= {"delta", "support"}
        result = RagResult.model_validate(events[-1].data)
        assert "".join(e.data["text"] for e in events if e.name == "delta") == result.answer.text == ANSWER
        assert events[0].data["trace_id"] == result.trace_id
        assert [c["number"] for c in events[0].data["citations"]] == [
            c.number for c in result.answer.citations
        ]

    def test_text_with_line_breaks_and_emoji_survives_the_framing(self) -> None:
        said = "Overlap repeats the last sentences of a chunk.\n\ndata: x\r\n🐈 event: y [1]"
        with serving(TwinService(ScriptedLanguageModel([said])).app) as url:
            events = server_sent_events(httpx.post(f"{url}/rag/stream", json={"query": QUESTION}).text)
        shown = "".join(event.data["text"] for event in events if event.name == "delta")
        assert shown == events[-1].data["answer"]["text"]
        assert "🐈" in shown

    def test_a_model_that_fails_in_the_middle_ends_the_stream_with_an_error(self) -> None:
        said = "Overlap repeats the last sentences of a chunk. [1] It keeps them whole. [1] And so on."
        model = ScriptedLanguageModel([Reply(said, fail_after=14, error="http://10.0.0.7:8080 gave up")])
        with serving(TwinService(model).app) as url:
            response = httpx.post(f"{url}/rag/stream", json={"query": QUESTION})
        events = server_sent_events(response.text)
        assert response.status_code == 200
        assert [event.name for event in events][:2] == ["sources", "delta"]
        assert events[-1].name == "error"
        assert events[-1].data["error"]["code"] == "model_failed"
        assert events[-1].data["error"]["request_id"]
        assert "10.0.0.7" not in response.text
        assert "done" not in {event.name for event in events}

    def test_what_fails_before_the_first_event_has_a_status(self) -> None:
        with serving(TwinService(index=FakeVectorIndex()).app) as url:
            response = httpx.post(f"{url}/rag/stream", json={"query": QUESTION})
        assert response.status_code == 503
        assert "run-feature-engineering-pipeline" in error_of(response)["message"]


class TestVotes:
    def test_a_vote_on_an_answer_is_kept_and_may_change(
        self, client: httpx.Client, twin: TwinService
    ) -> None:
        trace_id = client.post("/rag", json={"query": QUESTION}).json()["trace_id"]
        for rating in ("up", "down"):
            body = {"trace_id": trace_id, "rating": rating, "comment": "Überzeugt 👍"}
            response = client.post("/feedback", json=body)
            assert response.status_code == 201, response.text
            assert response.json() == {"trace_id": trace_id, "rating": rating}
        [(kept, vote)] = [
            pair for pair in twin.warehouse.feedback.read_votes() if pair[1].trace_id == trace_id
        ]
        assert kept.question == QUESTION
        assert (vote.rating, vote.comment) == ("down", "Überzeugt 👍")

    def test_an_unknown_answer_is_404(self, client: httpx.Client) -> None:
        response = client.post("/feedback", json={"trace_id": "0" * 32, "rating": "up"})
        assert response.status_code == 404
        assert error_of(response)["code"] == "unknown_trace"

    def test_without_the_database_answers_go_on_and_votes_are_503(self) -> None:
        twin = TwinService()
        twin.warehouse.down = True
        with serving(twin.app) as url:
            answered = httpx.post(f"{url}/rag", json={"query": QUESTION})
            voted = httpx.post(
                f"{url}/feedback", json={"trace_id": answered.json()["trace_id"], "rating": "up"}
            )
        assert answered.json()["answer"]["text"] == ANSWER
        assert voted.status_code == 503
        assert int(voted.headers["retry-after"]) > 0
        assert "poe local-infrastructure-up" in error_of(voted)["message"]

    def test_without_a_store_votes_are_refused_and_info_says_so(self) -> None:
        with serving(TwinService(keep_answers=False).app) as url:
            assert httpx.get(f"{url}/info").json()["feedback"] is False
            response = httpx.post(f"{url}/feedback", json={"trace_id": "x", "rating": "up"})
        assert response.status_code == 503
        assert error_of(response)["code"] == "feedback_off"


class TestDescriptions:
    def test_filters_are_what_the_index_holds(self, client: httpx.Client) -> None:
        assert client.get("/filters").json() == {
            "authors": {"Ada Winter": 2, "Ben Okafor": 2},
            "categories": {"article": 2, "post": 2},
            "platforms": {"ada.example": 2, "ben.example": 2},
            "languages": {"en": 3, "de": 1},
            "facets": [],
        }

    def test_info_says_what_answers(self, client: httpx.Client) -> None:
        info = client.get("/info").json()
        assert info["model"] == "scripted"
        assert info["models"] == ["scripted"]
        assert info["grounding"] == "annotate"
        assert info["author"] is None
        assert info["feedback"] is True
        assert info["keys_required"] is False
        assert info["defaults"] == {"k": 5, "mode": "hybrid", "fusion": {"kind": "rrf", "k": 60}}

    def test_info_says_whose_twin_it_is(self) -> None:
        with serving(TwinService(owner="Ada Winter").app) as url:
            assert httpx.get(f"{url}/info").json()["author"] == "Ada Winter"

    def test_the_page_is_served_with_a_policy_that_runs_only_its_own_files(
        self, client: httpx.Client
    ) -> None:
        page = client.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert client.get("/page/chat.js").headers["content-type"] == "text/javascript; charset=utf-8"

    def test_the_api_is_described_on_a_page_that_loads_nothing_from_elsewhere(
        self, client: httpx.Client
    ) -> None:
        response = client.get("/docs")
        assert response.status_code == 200
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert not re.search(r"(?:src|href)=.?(?:https?:)?//", response.text)
        assert re.findall("<script[^>]*>", response.text) == ['<script type="module" src="page/docs.js">']
        assert client.get("/page/docs.js").status_code == 200
        for path in client.get("/openapi.json").json()["paths"]:
            assert f" {path}</code>" in response.text
        assert client.get("/page/docs.css").status_code == 200
        anchors = set(re.findall(r'href="#([^"]+)"', response.text))
        assert anchors == anchors & set(re.findall(r'id="([^"]+)"', response.text))

    @pytest.mark.parametrize(
        "path",
        [
            "/page/../app.py",
            "/page/%2e%2e%2fapp.py",
            "/page/..%5capp.py",
            "/page/.hidden",
            "/page/app.py",
            "/page/nothing.js",
            "/page/chat.js%00.css",
            "/page/" + "x" * 5_000 + ".js",
        ],
    )
    def test_nothing_but_the_page_is_served(self, client: httpx.Client, path: str) -> None:
        response = client.get(path)
        assert response.status_code == 404
        error_of(response)


class TestErrors:
    @pytest.mark.parametrize("path", ["/search", "/rag", "/rag/stream"])
    def test_an_unknown_filter_value_names_the_closest(self, client: httpx.Client, path: str) -> None:
        response = client.post(path, json={"query": QUESTION, "filter": {"authors": ["Ada Wintr"]}})
        assert response.status_code == 422
        error = error_of(response)
        assert error["code"] == "unknown_filter_value"
        assert "Ada Winter" in error["message"]

    @pytest.mark.parametrize("path", ["/search", "/rag", "/rag/stream"])
    @pytest.mark.parametrize(
        ("body", "named"),
        [
            ({"query": QUESTION, "filter": {"author": ["Ada Winter"]}}, "filter.author"),
            ({"query": QUESTION, "filters": {}}, "filters"),
            ({"query": QUESTION, "k": 101}, "k"),
            ({"query": QUESTION, "k": "5"}, "k"),
            ({"query": QUESTION, "k": True}, "k"),
            ({"query": QUESTION, "k": 10**400}, "k"),
            ({"query": QUESTION, "mode": "magic"}, "mode"),
            ({"query": QUESTION, "fusion": {"kind": "rrf", "k": 10**9}}, "fusion.rrf.k"),
            ({"query": QUESTION, "fusion": {"kind": "weighted", "alpha": float("nan")}}, "alpha"),
            ({"query": " \t\n"}, "query"),
            ({"query": None}, "query"),
            ({"query": ["x"]}, "query"),
            ({}, "query"),
            ({"query": QUESTION, "filter": {"authors": "Ada Winter"}}, "filter.authors"),
            ({"query": QUESTION, "filter": {"authors": [" "]}}, "filter.authors[0]"),
            ({"query": QUESTION, "filter": {"authors": ["x"] * 101}}, "filter.authors"),
            ({"query": QUESTION, "filter": {"published_from": 1_700_000_000}}, "published_from"),
            ({"query": QUESTION, "filter": {"published_from": "yesterday"}}, "published_from"),
            ({"query": QUESTION, "filter": {"published_to": "0001-01-01T00:00:00+14:00"}}, "published_to"),
            ({"query": QUESTION, "filter": {"published_to": "2026-02-30"}}, "published_to"),
            (
                {"query": QUESTION, "filter": {"published_from": "2026-02-02", "published_to": "2026-02-01"}},
                "published_from",
            ),
        ],
    )
    def test_what_cannot_be_used_is_422_and_named(
        self, client: httpx.Client, path: str, body: dict[str, object], named: str
    ) -> None:
        response = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert response.status_code == 422, response.text
        error = error_of(response)
        assert error["code"] == "invalid_request"
        assert named in error["message"]

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"\xff\xfe",
            b'"text"',
            b"[]",
            b"null",
            b'{"query": "\\ud800"}',
            b'{"\\udfff": 1, "query": "x"}',
            b'{"query": "x", "k": ' + b"9" * 100_000 + b"}",
            b'{"query": ' * 100_000,
            b"[" * 100_000,
            b'{"query": NaN}',
            b'{"query": "x", "temperature": Infinity}',
            b'{"query": "x", "temperature": -1e999}',
        ],
        ids=range(14),
    )
    @pytest.mark.parametrize("path", ["/rag", "/search", "/feedback", "/v1/chat/completions"])
    def test_a_malformed_body_is_the_callers_fault(
        self, client: httpx.Client, path: str, content: bytes
    ) -> None:
        response = client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert response.status_code == (400 if path.startswith("/v1") else 422)

    @pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "x", None])
    def test_other_content_types_are_refused(self, client: httpx.Client, content_type: str | None) -> None:
        headers = {} if content_type is None else {"Content-Type": content_type}
        response = client.post("/rag", content=b'{"query": "x"}', headers=headers)
        assert response.status_code == 415
        assert "application/json" in error_of(response)["message"]

    def test_a_null_character_is_only_blank_space(self, client: httpx.Client) -> None:
        response = client.post(
            "/search", json={"query": "chunk\x00overlap", "filter": {"document_ids": ["\x00x"]}}
        )
        assert response.status_code == 200
        assert response.json()["hits"] == []

    def test_a_question_that_is_too_long_says_the_limit(self, client: httpx.Client) -> None:
        response = client.post("/rag", json={"query": "x" * 4_001})
        assert response.status_code == 422
        assert error_of(response)["code"] == "invalid_input"
        assert "4,000" in error_of(response)["message"]

    def test_what_is_not_there_has_the_same_shape(self, client: httpx.Client) -> None:
        missing, wrong = client.get("/nothing"), client.get("/rag")
        assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
        assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")
        assert wrong.headers["allow"] == "POST"


class Failing(ScriptedLanguageModel):
    """Raises what it was given, at its first call."""

    def __init__(self, error: Exception) -> None:
        super().__init__(default="")
        self._error = error

    def _next(self, messages: object) -> Reply:
        raise self._error


SECRET = "sk-12345 at https://user:pass@10.1.2.3/v1 in /srv/models/x.gguf"


class TestModelFailures:
    @pytest.mark.parametrize(
        ("error", "status", "code"),
        [
            (ModelServiceError(SECRET), 502, "model_failed"),
            (ModelServiceError(SECRET, reason="timeout"), 504, "model_timeout"),
            (ModelServiceError(SECRET, reason="busy", retry_after=17.2), 503, "model_busy"),
            (RuntimeError(SECRET), 500, "internal"),
            (ZeroDivisionError(SECRET), 500, "internal"),
        ],
        ids=lambda value: getattr(value, "reason", None) or str(value)[:20],
    )
    def test_callers_are_told_nothing_about_the_inside(
        self, error: Exception, status: int, code: str
    ) -> None:
        with serving(TwinService(Failing(error)).app) as url:
            response = httpx.post(f"{url}/rag", json={"query": QUESTION})
        assert response.status_code == status
        assert error_of(response)["code"] == code
        for inner in ("sk-12345", "10.1.2.3", "/srv", "pass", "Traceback", "Error("):
            assert inner not in response.text
        if code == "model_busy":
            assert response.headers["retry-after"] == "17"


class Stumbling(FakeVectorIndex):
    """An index whose search fails as it was told."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def search(self, requests: object, fingerprint: object) -> list[list[Hit]]:
        raise self._error


class TestIndexFailures:
    @pytest.mark.parametrize(
        ("error", "status", "code"),
        [
            (StoreUnavailableError(SECRET), 503, "store_unavailable"),
            (FingerprintMismatchError(SECRET), 503, "index_mismatch"),
            (StoreError(SECRET), 500, "internal"),
        ],
        ids=["away", "another embedder", "broken"],
    )
    def test_callers_are_told_what_to_do_and_no_address(
        self, error: Exception, status: int, code: str
    ) -> None:
        index = Stumbling(error)
        write(index, HashEmbedder())
        with serving(TwinService(index=index).app) as url:
            response = httpx.post(f"{url}/search", json={"query": QUESTION})
        assert response.status_code == status
        assert error_of(response)["code"] == code
        assert ("retry-after" in response.headers) == (status == 503)
        for inner in ("sk-12345", "10.1.2.3", "/srv", "pass@"):
            assert inner not in response.text


def test_messages_are_strict_about_roles(client: httpx.Client) -> None:
    history = [{"role": "system", "content": "Obey."}]
    response = client.post("/rag", json={"query": QUESTION, "history": history})
    assert response.status_code == 422
    assert "history[0].role" in error_of(response)["message"]


def test_history_is_handed_on_oldest_first() -> None:
    twin = TwinService()
    seen: list[tuple[Message, ...]] = []
    retrieve = twin.pipeline._retriever.retrieve

    async def watched(
        query: object, recorder: object, history: tuple[Message, ...] = (), **more: object
    ) -> object:
        seen.append(history)
        return await retrieve(query, recorder, history, **more)  # type: ignore[arg-type]

    twin.pipeline._retriever.retrieve = watched  # type: ignore[method-assign,assignment]
    turns = [{"role": "user", "content": "Hello\x00"}, {"role": "assistant", "content": "Hi"}]
    with serving(twin.app) as url:
        assert httpx.post(f"{url}/rag", json={"query": QUESTION, "history": turns}).status_code == 200
    assert seen == [(Message("user", "Hello "), Message("assistant", "Hi"))]


class Blind(HashEmbedder):
    """An embedder that embeds documents, but no question."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        raise ModelError("no question can be embedded")


class TestDegradation:
    @pytest.mark.parametrize("path", ["/search", "/rag", "/rag/stream", "/v1/chat/completions"])
    def test_what_went_on_without_a_stage_says_so_in_header_and_body(self, path: str) -> None:
        body: dict[str, object] = {"query": QUESTION}
        if path.startswith("/v1"):
            body = {"model": "llm-twin", "messages": [{"role": "user", "content": QUESTION}]}
        with serving(TwinService(embedder=Blind()).app) as url:
            response = httpx.post(url + path, json=body)
        assert response.status_code == 200, response.text
        assert response.headers["x-twin-degraded"] == "1"
        assert '"dense_status":"failed"' in response.text
        assert '"degradations":["' in response.text


def test_what_the_caller_asks_of_the_generation_reaches_the_model() -> None:
    model = ScriptedLanguageModel(default=ANSWER)
    instructions = "Answer in the voice of a pirate."
    asked = {
        "model": "llm-twin",
        "messages": [{"role": "system", "content": instructions}, {"role": "user", "content": QUESTION}],
        "temperature": 0.7,
        "seed": 42,
        "max_tokens": 50,
    }
    with serving(TwinService(model).app) as url:
        assert httpx.post(f"{url}/v1/chat/completions", json=asked).status_code == 200
    call = model.calls[-1]
    assert (call.options.temperature, call.options.seed, call.options.max_tokens) == (0.7, 42, 50)
    assert any(instructions in message.content for message in call.messages)
