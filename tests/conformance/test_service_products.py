"""Summaries of products' reviews over HTTP: served from the store alone, and no text that may not be shown."""

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from llm_engineering.domain.analyses import Evidence
from llm_engineering.domain.documents import Span
from llm_engineering.domain.reviews import (
    GOLDEN,
    LABEL,
    VOTE_TASK,
    Distribution,
    KeyPoint,
    Polarity,
    ProductSummary,
    StoredSummary,
    SummarySentence,
    SummaryStatus,
    Votes,
)
from tests.conformance.test_service_rag import error_of
from tests.conformance.warehouse_contract import clean
from tests.fakes.operated_service import OperatedService, metric
from tests.fakes.service import serving

REVIEW = clean(1, text="So, bright <b>light</b>! I read by it.")
QUOTE = Evidence(document_id=REVIEW.id, span=Span(start=4, end=10), quote="bright")
CHANGED = Evidence(document_id=REVIEW.id, span=Span(start=0, end=4), quote="dark")
POINT = KeyPoint(
    id="p1",
    name="=bright & <i>warm</i>",
    polarity=Polarity.POSITIVE,
    support=12,
    document_ids=(REVIEW.id,),
    evidence=(QUOTE, CHANGED),
)


def make(product: str, status: SummaryStatus) -> ProductSummary:
    sentence = SummarySentence(text="Many like it.", section="pros", key_points=("p1",), evidence=(QUOTE,))
    return ProductSummary(
        product=product,
        status=status,
        sentences=(sentence,),
        key_points=(POINT,),
        distribution=Distribution(reviews=60, reviewers=60, stars={"5": 40, "1": 10}),
        product_category="light" if status is SummaryStatus.READY else "",
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
    )


@pytest.fixture
def service(tmp_path: Path) -> OperatedService:
    return OperatedService(tmp_path)


@pytest.fixture
def client(service: OperatedService) -> Iterator[httpx.Client]:
    stored = [StoredSummary(current=make(one.value, one)) for one in SummaryStatus if one != "held"]
    held = StoredSummary(waiting=make("held", SummaryStatus.HELD))
    service.warehouse.summaries.put_many([*stored, held])
    service.warehouse.clean.upsert([REVIEW])
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_a_summary_has_its_label_counts_and_places(client: httpx.Client) -> None:
    found = client.get("/products/ready/summary").raise_for_status().json()
    assert (found["status"], found["label"], found["stale"]) == ("ready", LABEL, False)
    assert found["sentences"][0]["evidence"][0]["span"] == {"start": 4, "end": 10}
    assert (found["key_points"][0]["support"], found["distribution"]["reviewers"]) == (12, 60)
    points = client.get("/products/ready/key-points").raise_for_status().json()
    assert (points["key_points"], points["reviewers"]) == (found["key_points"], 60)


@pytest.mark.parametrize("status", ["too_few", "held", "withheld"])
def test_no_text_is_served_that_may_not_be_shown(client: httpx.Client, status: str) -> None:
    for route in ("summary", "key-points"):
        found = client.get(f"/products/{status}/{route}").raise_for_status()
        assert found.json()["status"] == status
        assert "Many like it." not in found.text
        assert "bright" not in found.text


def test_what_a_client_has_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/products/ready/summary")
    assert first.headers["etag"] == f'W/"{first.json()["version"]}"'
    again = client.get("/products/ready/summary", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get("/products/ready/summary", headers={"If-None-Match": 'W/"other"'})
    assert other.status_code == 200


def test_an_unknown_product_or_language_is_refused(client: httpx.Client) -> None:
    unknown = client.get("/products/none/summary")
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "unknown_product")
    assert client.get("/products/ready/summary?language=de").status_code == 404
    assert client.get("/products/ready/summary?language=German").status_code == 422


def test_products_are_listed_at_a_glance(client: httpx.Client) -> None:
    found = client.get("/products").raise_for_status().json()["products"]
    assert [one["product"] for one in found] == ["held", "quoted", "ready", "too_few", "withheld"]
    ready = next(one for one in found if one["product"] == "ready")
    assert (ready["stars"], ready["reviews"], ready["category"]) == (4.2, 60, "light")
    assert ready["strengths"] == [{"name": POINT.name, "support": 12}]
    assert all(not one["strengths"] for one in found if one["product"] in ("held", "too_few", "withheld"))
    some = client.get("/products?category=light").json()["products"]
    assert [one["product"] for one in some] == ["ready"]


def test_the_list_is_a_table_for_spreadsheets_too(client: httpx.Client) -> None:
    found = client.get("/products", headers={"Accept": "text/csv"})
    assert found.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(found.text.splitlines()))
    assert len(rows) == 5
    assert rows[2]["strengths"] == f"'{POINT.name} 12"  # no formula


def test_a_page_shows_the_reviews_behind_a_point(client: httpx.Client) -> None:
    page = client.get("/products/ready")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "So, <mark>bright</mark> &lt;b&gt;light&lt;/b&gt;! I read by it." in page.text
    assert "<mark>dark</mark></li>" in page.text  # the review has changed since, so its quote stands alone
    assert LABEL in page.text
    assert "<i>" not in page.text
    listed = client.get("/products", headers={"Accept": "text/html"})
    assert 'href="./products/ready"' in listed.text
    assert "<i>" not in listed.text


@pytest.mark.parametrize("status", ["too_few", "held", "withheld"])
def test_no_page_shows_what_may_not_be_shown(client: httpx.Client, status: str) -> None:
    page = client.get(f"/products/{status}").raise_for_status()
    assert "bright" not in page.text
    assert "Many like it." not in page.text


def test_there_is_no_page_of_an_unknown_product(client: httpx.Client) -> None:
    assert client.get("/products/none").status_code == 404
    assert client.get("/products/ready?language=de").status_code == 404


def test_a_reader_has_one_vote_on_a_version(client: httpx.Client, service: OperatedService) -> None:
    version = client.get("/products/ready/summary").json()["version"]

    def vote(voter: str, rating: str, product: str = "ready") -> int:
        body = {"version": version, "rating": rating, "voter": voter}
        return client.post(f"/products/{product}/summary/feedback", json=body).status_code

    assert {vote(f"reader{number}", "down") for number in range(100)} == {201}
    assert {vote(f"reader{number}", "up") for number in range(30)} == {201}  # they think better of it
    assert service.warehouse.feedback.count_votes(VOTE_TASK) == {version: (30, 70)}
    assert (vote("reader", "up", product="quoted"), vote("two words", "up"), vote("reader", "so")) == (
        404,
        422,
        422,
    )
    kept = list(service.warehouse.feedback.read_corrections(VOTE_TASK))
    assert "reader1" not in {one.voter for one in kept}  # a hash of it is
    assert metric(client, "twin_summary_votes", rating="down") == 70


def test_votes_put_a_summary_before_a_person_and_its_edit_is_golden() -> None:
    served = StoredSummary(current=make("ready", SummaryStatus.READY))
    assert not served.is_questioned(Votes(up=0, down=2))
    assert not served.is_questioned(Votes(up=5, down=4))
    assert served.is_questioned(Votes(up=2, down=3))
    assert served.question().served.status is SummaryStatus.READY  # meanwhile
    edited = served.question().approve(datetime.now(UTC), ("12 of 60 like the light.",))
    assert edited.served.text == "12 of 60 like the light."
    assert not edited.is_questioned(Votes(down=9))  # a person has answered
    golden = edited.make_golden()
    assert (golden.newest.variant, golden.newest.text, golden.id == edited.id) == (
        GOLDEN,
        edited.served.text,
        False,
    )
    refused = served.question().reject()
    assert (refused.served.status, refused.served.sentences) == (SummaryStatus.WITHHELD, ())
    with pytest.raises(ValueError, match="edited"):
        served.make_golden()
