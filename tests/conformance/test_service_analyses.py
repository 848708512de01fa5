"""Analyses over HTTP: a text in, findings with quotes out; corrections in; what does not fit is told."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from llm_engineering.application.analysis.analyse import AnalysisStores, Deciders
from llm_engineering.application.analysis.service import AnalysisService
from llm_engineering.application.ports import Message
from llm_engineering.application.text.privacy import PrivacyPolicy
from llm_engineering.domain.analyses import AnalysisSpec
from llm_engineering.infrastructure.personal_data import RulesFinder
from tests.conformance.test_service_rag import error_of
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.service import TwinService, serving
from tests.fakes.warehouse import FakeWarehouse

TEXT = "The lamp is broken, and nobody answers. Order AB-1234."
SPEC = AnalysisSpec.model_validate(
    {
        "task": "tickets",
        "fields": {
            "mood": {"kind": "class", "values": ["calm", "cross"]},
            "order": {"kind": "entities", "pattern": r"\b[A-Z]{2}-\d{4}\b"},
            "things": {"kind": "list", "evidence": "none"},
        },
    }
)


POLICY = PrivacyPolicy(RulesFinder(["Ada Winter"]))


def answer(messages: Sequence[Message]) -> str:
    return json.dumps({"mood": {"value": "cross", "quotes": ["nobody answers"]}, "things": ["lamp"]})


class Bench:
    def __init__(self) -> None:
        self.model = ScriptedLanguageModel(default=answer)
        self.stores = FakeWarehouse()
        kept = AnalysisStores(
            self.stores.clean, self.stores.analyses, self.stores.generations, self.stores.dead_letters
        )
        grouped = AnalysisSpec.model_validate(
            {**SPEC.model_dump(), "task": "products", "group_by": "product"}
        )
        deciders = {"tickets": Deciders(self.model), "products": Deciders(self.model)}
        self.twin = TwinService(analyses=AnalysisService([SPEC, grouped], kept, deciders, POLICY))


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def client(bench: Bench) -> Iterator[httpx.Client]:
    with serving(bench.twin.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def analyse(client: httpx.Client, text: str = TEXT, **body: Any) -> httpx.Response:
    return client.post("/analyses/tickets", json={"text": text, **body})


def test_every_quote_stands_in_the_text(client: httpx.Client) -> None:
    response = analyse(client)
    assert response.status_code == 200, response.text
    found = response.json()["findings"]
    assert [(one["field"], one["value"]) for one in found] == [
        ("mood", "cross"),
        ("order", "AB-1234"),
        ("things", "lamp"),
    ]
    quotes = [quote for one in found for quote in one["evidence"]]
    assert [TEXT[one["span"]["start"] : one["span"]["end"]] for one in quotes] == [
        "nobody answers",
        "AB-1234",
    ]


def test_the_same_text_is_asked_once_and_can_be_read_again(client: httpx.Client, bench: Bench) -> None:
    first, second = analyse(client, id="crm/7").json(), analyse(client, id="crm/7").json()
    assert first == second
    assert len(bench.model.calls) == 1
    assert client.get(f"/analyses/tickets/{first['id']}").json() == first
    assert error_of(client.get(f"/analyses/products/{first['id']}"))["code"] == "unknown_analysis"
    assert client.get("/analyses/tickets/none").status_code == 404


def test_personal_data_is_neither_sent_to_the_model_nor_kept(client: httpx.Client, bench: Bench) -> None:
    made = analyse(client, f"{TEXT} Ada Winter, ada@example.com", title="For Ada Winter").json()
    assert made["findings"]
    asked = "".join(message.content for message in bench.model.calls[-1].messages)
    kept = "".join(one.model_dump_json() for one in bench.stores.analyses.stream())
    assert "[e-mail]" in asked
    assert "Winter" not in asked + kept
    assert "ada@" not in asked + kept


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("tickets", {"text": " "}, 422, "invalid_request"),
        ("tickets", {"text": 5}, 422, "invalid_request"),
        ("tickets", {"text": "a" * 20_001}, 422, "invalid_request"),
        ("tickets", {"text": "a", "mood": "calm"}, 422, "invalid_request"),
        ("mails", {"text": "a"}, 404, "unknown_task"),
        ("products", {"text": "a"}, 422, "invalid_input"),
    ],
)
def test_what_does_not_fit_is_refused(
    client: httpx.Client, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    response = client.post(f"/analyses/{path}", json=body)
    assert (response.status_code, error_of(response)["code"]) == (status, code)


def test_a_model_that_says_nothing_usable_is_an_error_of_the_model(
    client: httpx.Client, bench: Bench
) -> None:
    bench.model.queue("nothing", Reply(fail_after=0))
    response = analyse(client, "Another text.")
    assert (response.status_code, error_of(response)["code"]) == (502, "model_failed")


class TestCorrections:
    def correct(self, client: httpx.Client, identifier: str, **vote: Any) -> httpx.Response:
        return client.post("/feedback", json={"subject": {"kind": "analysis", "id": identifier}, **vote})

    def test_a_correction_is_kept_with_what_it_is_about(self, client: httpx.Client, bench: Bench) -> None:
        made = analyse(client).json()
        response = self.correct(client, made["id"], correction={"mood": "calm", "things": ["lamp", "desk"]})
        assert response.status_code == 201, response.text
        assert response.json()["corrected"] == ["mood", "things"]
        [kept] = bench.twin.warehouse.feedback.read_corrections("tickets")
        assert kept.correction == {"mood": "calm", "things": ("lamp", "desk")}
        assert kept.document_ids == tuple(made["document_ids"])

    def test_a_second_one_replaces_and_a_plain_vote_is_taken(
        self, client: httpx.Client, bench: Bench
    ) -> None:
        identifier = analyse(client).json()["id"]
        self.correct(client, identifier, correction={"mood": "calm"})
        assert self.correct(client, identifier, rating="up").status_code == 201
        [kept] = bench.twin.warehouse.feedback.read_corrections()
        assert (kept.rating, kept.correction) == ("up", None)

    @pytest.mark.parametrize(
        ("vote", "status", "told"),
        [
            ({"correction": {"mood": "sad"}}, 422, "calm, cross"),
            ({"correction": {"weather": "fine"}}, 422, "mood, order, things"),
            ({"correction": {"things": "lamp"}}, 422, "list of texts"),
            ({}, 422, "correction"),
        ],
    )
    def test_a_wrong_one_is_told_what_there_is(
        self, client: httpx.Client, vote: dict[str, Any], status: int, told: str
    ) -> None:
        response = self.correct(client, analyse(client).json()["id"], **vote)
        assert response.status_code == status
        assert told in error_of(response)["message"]

    def test_an_unknown_analysis_is_404(self, client: httpx.Client) -> None:
        response = self.correct(client, "none", rating="up")
        assert (response.status_code, error_of(response)["code"]) == (404, "unknown_analysis")

    def test_an_answer_cannot_be_corrected(self, client: httpx.Client) -> None:
        body = {"trace_id": "t", "rating": "up", "correction": {"mood": "calm"}}
        assert client.post("/feedback", json=body).status_code == 422
