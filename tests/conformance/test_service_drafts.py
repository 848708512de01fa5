"""Drafts over HTTP: written to order, kept, edited by a person, compared, and what goes wrong."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_engineering.application.inference.events import FORMATS
from llm_engineering.application.inference.pipeline import DRAFT_LOST, NO_DRAFTS
from llm_engineering.domain.drafts import DraftDiff, StoredDraft
from llm_engineering.domain.inference import Intent, RagResult
from llm_engineering.infrastructure.api.schemas.drafts import DraftDetail
from tests.conformance.service_client import eventually, server_sent_events
from tests.conformance.test_service_rag import error_of
from tests.fakes.llm import Reply, ScriptedLanguageModel
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
            "format": "email",
            "length": 77,
        }
        assert client.post("/write", json=body).status_code == 200
        asked = prompt_of(twin)
        assert "Ben Okafor" in asked
        assert "an e-mail" in asked
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


def written(client: httpx.Client) -> str:
    """The id of a new draft."""
    identifier = client.post("/write", json={"request": REQUEST}).json()["draft_id"]
    assert isinstance(identifier, str)
    return identifier


def edit(client: httpx.Client, draft_id: str, text: str, base: int) -> httpx.Response:
    return client.put(f"/drafts/{draft_id}", json={"text": text, "base_revision": base})


def only_draft(twin: TwinService) -> StoredDraft | None:
    drafts = twin.warehouse.drafts.read_page(2)
    assert len(drafts) < 2
    return drafts[0] if drafts else None


class TestKeeping:
    def test_a_finished_draft_is_kept_with_all_it_was_made_of(self, client: httpx.Client) -> None:
        body = {"request": REQUEST, "author": "Ada Winter", "format": "thread", "length": 90}
        result = RagResult.model_validate(client.post("/write", json=body).json())
        assert result.draft_id == result.trace_id
        kept = DraftDetail.model_validate(client.get(f"/drafts/{result.draft_id}").json())
        assert kept.answer == result.answer
        assert kept.provenance == result.provenance
        assert (kept.text, kept.revision, kept.edits, kept.unfinished) == (result.answer.text, 0, (), False)
        assert (kept.brief.format, kept.brief.words, kept.brief.author) == ("thread", 90, "Ada Winter")
        assert "overlap" in kept.brief.subject.casefold()
        assert kept.answer.model == "scripted"
        assert kept.answer.prompt_hash

    def test_the_stream_tells_the_id_at_its_beginning_and_end(self, client: httpx.Client) -> None:
        events = server_sent_events(client.post("/write/stream", json={"request": REQUEST}).text)
        assert events[0].data["draft_id"] == events[-1].data["draft_id"] == events[-1].data["trace_id"]

    def test_a_draft_that_was_asked_for_in_words_is_kept_too_and_an_answer_is_none(
        self, client: httpx.Client
    ) -> None:
        drafted = client.post("/rag", json={"query": "Draft a post about chunk overlap"}).json()
        assert client.get(f"/drafts/{drafted['draft_id']}").status_code == 200
        answered = client.post("/rag", json={"query": "What does overlap repeat?"}).json()
        assert answered["provenance"]["intent"] == "answer"
        assert answered["draft_id"] is None
        assert client.get(f"/drafts/{answered['trace_id']}").status_code == 404

    def test_a_reply_that_nothing_was_collected_is_no_draft(self, client: httpx.Client) -> None:
        result = client.post("/write", json={"request": "Submarines"}).json()
        assert result["answer"]["abstained"]
        assert result["draft_id"] is None
        assert result["provenance"]["degradations"] == []

    @pytest.mark.parametrize("path", ["/write", "/write/stream"])
    def test_of_a_model_that_fails_in_the_middle_the_text_so_far_is_kept(self, path: str) -> None:
        twin = TwinService(ScriptedLanguageModel([Reply(DRAFT, fail_after=16)]))
        with serving(twin.app) as url:
            response = httpx.post(f"{url}{path}", json={"request": REQUEST})
            kept = only_draft(twin)
            assert kept is not None
            if path == "/write":
                assert response.status_code == 502
            else:
                events = server_sent_events(response.text)
                assert events[-1].name == "error"
                assert events[0].data["draft_id"] == kept.id
            assert kept.unfinished
            assert DRAFT.startswith(kept.answer.text)
            assert kept.answer.text.startswith("Overlap repeats")
            assert kept.answer.citations
            assert [support.verdict.value for support in kept.answer.supports] == ["supported"]
            assert kept.answer.model == "scripted"
            with httpx.Client(base_url=url) as client:
                assert edit(client, kept.id, "I end it myself.", 0).status_code == 200

    def test_of_a_client_that_leaves_the_text_so_far_is_kept(self) -> None:
        long = f"{DRAFT} " + " ".join(f"Word {number} of many." for number in range(500))
        twin = TwinService(ScriptedLanguageModel([Reply(long, seconds_per_piece=0.01)]))
        with (
            serving(twin.app) as url,
            httpx.stream("POST", f"{url}/write/stream", json={"request": REQUEST}) as response,
        ):
            for line in response.iter_lines():
                if line.startswith("event: support"):
                    break
            response.close()
            assert eventually(lambda: only_draft(twin) is not None)
        kept = only_draft(twin)
        assert kept is not None
        assert kept.unfinished
        assert kept.answer.text.strip()
        assert long.startswith(kept.answer.text)

    def test_what_fails_before_its_first_word_leaves_no_draft(self) -> None:
        twin = TwinService(ScriptedLanguageModel([Reply(DRAFT, fail_after=0)]))
        with serving(twin.app) as url:
            assert httpx.post(f"{url}/write", json={"request": REQUEST}).status_code == 502
        assert only_draft(twin) is None

    def test_while_the_warehouse_is_down_writing_goes_on_and_says_so(self) -> None:
        twin = TwinService(ScriptedLanguageModel(default=DRAFT))
        twin.warehouse.down = True
        with serving(twin.app) as url, httpx.Client(base_url=url) as client:
            response = client.post("/write", json={"request": REQUEST})
            assert response.status_code == 200
            assert response.json()["answer"]["text"] == DRAFT
            assert response.json()["draft_id"] is None
            assert response.json()["provenance"]["degradations"] == [DRAFT_LOST]
            assert response.headers["x-twin-degraded"] == "1"
            for method, path in (("GET", "/drafts"), ("GET", "/drafts/x"), ("DELETE", "/drafts/x")):
                refused = client.request(method, path)
                assert refused.status_code == 503
                assert error_of(refused)["code"] == "store_unavailable"
            assert edit(client, "x", "Mine.", 0).status_code == 503

    def test_without_a_store_writing_goes_on_and_drafts_are_off(self) -> None:
        twin = TwinService(ScriptedLanguageModel(default=DRAFT), keep_answers=False)
        with serving(twin.app) as url, httpx.Client(base_url=url) as client:
            events = server_sent_events(client.post("/write/stream", json={"request": REQUEST}).text)
            assert events[0].data["draft_id"] is None
            assert events[-1].data["draft_id"] is None
            assert events[-1].data["provenance"]["degradations"] == [NO_DRAFTS]
            assert client.get("/info").json()["drafts"] is False
            for path in ("/drafts", "/drafts/x", "/drafts/x/diff"):
                refused = client.get(path)
                assert refused.status_code == 503
                assert error_of(refused)["code"] == "drafts_off"


class TestEditing:
    def test_an_edit_is_a_version_and_the_draft_stays_beside_it(self, client: httpx.Client) -> None:
        draft_id = written(client)
        assert edit(client, draft_id, "My first version.\r\nOf two lines.", 0).status_code == 200
        second = edit(client, draft_id, "My second version.", 1)
        kept = DraftDetail.model_validate(client.get(f"/drafts/{draft_id}").json())
        assert DraftDetail.model_validate(second.json()) == kept
        assert (kept.text, kept.revision) == ("My second version.", 2)
        assert [version.text for version in kept.edits] == [
            "My first version.\nOf two lines.",
            "My second version.",
        ]
        assert kept.answer.text == DRAFT

    def test_the_draft_itself_may_be_brought_back(self, client: httpx.Client) -> None:
        draft_id = written(client)
        edit(client, draft_id, "Mine.", 0)
        assert edit(client, draft_id, DRAFT, 1).json()["text"] == DRAFT

    def test_an_edit_that_changes_nothing_is_refused(self, client: httpx.Client) -> None:
        draft_id = written(client)
        for text, base in ((DRAFT, 0), ("Mine.", 1)):
            refused = edit(client, draft_id, text, base)
            assert refused.status_code == 422
            assert error_of(refused)["code"] == "unchanged_draft"
            edit(client, draft_id, "Mine.", 0)

    @pytest.mark.parametrize(
        ("body", "named"),
        [
            ({"text": "", "base_revision": 0}, "text"),
            ({"text": " \n\t", "base_revision": 0}, "text"),
            ({"text": "x" * 50_001, "base_revision": 0}, "text"),
            ({"text": "Mine.", "base_revision": -1}, "base_revision"),
            ({"text": "Mine.", "base_revision": "0"}, "base_revision"),
            ({"text": "Mine."}, "base_revision"),
            ({"base_revision": 0}, "text"),
            ({"text": "Mine.", "base_revision": 0, "author": "Ada Winter"}, "author"),
        ],
    )
    def test_what_cannot_be_an_edit_is_422_and_named(
        self, client: httpx.Client, body: dict[str, Any], named: str
    ) -> None:
        response = client.put(f"/drafts/{written(client)}", json=body)
        assert response.status_code == 422
        error = error_of(response)
        assert error["code"] == "invalid_request"
        assert named in error["message"]

    def test_an_edit_of_an_older_version_is_refused_and_the_newest_named(self, client: httpx.Client) -> None:
        draft_id = written(client)
        edit(client, draft_id, "Mine.", 0)
        for base in (0, 2):
            refused = edit(client, draft_id, "Theirs.", base)
            assert refused.status_code == 409
            error = error_of(refused)
            assert error["code"] == "edited_meanwhile"
            assert "newest version is 1" in error["message"]
        assert client.get(f"/drafts/{draft_id}").json()["text"] == "Mine."

    def test_of_two_edits_at_once_one_is_kept_and_the_other_told(self, client: httpx.Client) -> None:
        draft_id = written(client)
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda number: edit(client, draft_id, f"By {number}.", 0), range(6)))
        assert sorted(response.status_code for response in found) == [200, 409, 409, 409, 409, 409]
        kept = client.get(f"/drafts/{draft_id}").json()
        assert kept["revision"] == 1
        assert [r.json()["text"] for r in found if r.status_code == 200] == [kept["text"]]

    def test_what_is_deleted_is_gone_with_its_versions(self, client: httpx.Client) -> None:
        draft_id = written(client)
        edit(client, draft_id, "Mine.", 0)
        assert client.delete(f"/drafts/{draft_id}").json() == {"id": draft_id}
        for response in (
            client.get(f"/drafts/{draft_id}"),
            client.get(f"/drafts/{draft_id}/diff"),
            client.delete(f"/drafts/{draft_id}"),
            edit(client, draft_id, "Again.", 1),
        ):
            assert response.status_code == 404
            assert error_of(response)["code"] == "unknown_draft"

    def test_versions_can_be_compared(self, client: httpx.Client) -> None:
        draft_id = written(client)
        edit(client, draft_id, DRAFT.replace("Whales sing", "Owls call"), 0)
        edit(client, draft_id, DRAFT.replace("Whales sing", "Owls call") + "\nAnd a new line.", 1)
        first = DraftDiff.model_validate(client.get(f"/drafts/{draft_id}/diff?from=0&to=1").json())
        assert (first.from_revision, first.to_revision) == (0, 1)
        assert [(p.kind, p.text) for p in first.words if p.kind in ("removed", "added")] == [
            ("removed", "Whales"),
            ("added", "Owls"),
            ("removed", "sing"),
            ("added", "call"),
        ]
        newest = DraftDiff.model_validate(client.get(f"/drafts/{draft_id}/diff", params={"from": 1}).json())
        assert newest.to_revision == 2
        assert [(p.kind, p.text) for p in newest.lines if p.kind == "added"] == [("added", "And a new line.")]
        unknown = client.get(f"/drafts/{draft_id}/diff?to=9")
        assert unknown.status_code == 404
        assert error_of(unknown)["code"] == "unknown_revision"


class TestListing:
    def test_drafts_are_listed_newest_first_page_by_page(self) -> None:
        twin = TwinService(ScriptedLanguageModel(default=DRAFT))
        with serving(twin.app) as url, httpx.Client(base_url=url) as client:
            assert client.get("/drafts").json() == {"drafts": [], "next": None}
            made = [written(client) for _ in range(5)]
            edit(client, made[2], "Mine. " * 50, 0)
            found: list[dict[str, Any]] = []
            following: str | None = None
            for _ in range(3):
                parameters = {"limit": 2} | ({"before": following} if following else {})
                page = client.get("/drafts", params=parameters).json()
                found += page["drafts"]
                following = page["next"]
            assert following is None
        assert sorted(draft["id"] for draft in found) == sorted(made)
        moments = [draft["created_at"] for draft in found]
        assert moments == sorted(moments, reverse=True)
        edited = next(draft for draft in found if draft["id"] == made[2])
        assert edited["revision"] == 1
        assert edited["opening"].startswith("Mine. Mine.")
        assert len(edited["opening"]) <= 121
        assert edited["request"] == REQUEST
        assert "citations" not in json.dumps(edited)

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=101", "limit=x", "before=x", "before=999999999999999-x", "before=-x"]
    )
    def test_a_page_that_cannot_be_is_422(self, client: httpx.Client, query: str) -> None:
        response = client.get(f"/drafts?{query}")
        assert response.status_code == 422
        assert error_of(response)["code"] == "invalid_request"

    def test_a_method_that_is_not_there_names_all_that_are(self, client: httpx.Client) -> None:
        for path, allowed in (("/drafts/x", "DELETE, GET, PUT"), ("/drafts", "GET"), ("/write", "POST")):
            response = client.request("PATCH", path)
            assert response.status_code == 405
            assert response.headers["allow"] == allowed

    def test_the_description_for_people_tells_what_a_list_takes(self, client: httpx.Client) -> None:
        assert "<code>limit</code> (integer, from 1, to 100)" in client.get("/docs").text

    def test_an_id_that_cannot_be_is_422(self, client: httpx.Client) -> None:
        response = client.get(f"/drafts/{'x' * 65}")
        assert response.status_code == 422
        assert error_of(response)["code"] == "invalid_request"

    def test_drafts_need_the_key_that_votes_need(self, tmp_path: Path) -> None:
        service = OperatedService(tmp_path)
        key = service.keys.create("laptop")
        with serving(service.app) as url, httpx.Client(base_url=url) as client:
            for method in ("GET", "PUT", "DELETE"):
                assert client.request(method, "/drafts/x").status_code == 401
            assert client.get("/drafts").status_code == 401
            assert client.get("/drafts", headers={"X-API-Key": key}).status_code == 200

    def test_a_page_of_elsewhere_can_neither_edit_nor_delete(self, tmp_path: Path) -> None:
        with serving(OperatedService(tmp_path).app) as url, httpx.Client(base_url=url) as client:
            for method in ("PUT", "DELETE"):
                response = client.request(method, "/drafts/x", headers={"Origin": "https://evil.example"})
                assert response.status_code == 403
