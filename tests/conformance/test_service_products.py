"""Summaries of products' reviews over HTTP: served from the store alone, and no text that may not be shown."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from llm_engineering.domain.analyses import Evidence
from llm_engineering.domain.documents import Span
from llm_engineering.domain.reviews import (
    LABEL,
    Distribution,
    KeyPoint,
    Polarity,
    ProductSummary,
    StoredSummary,
    SummarySentence,
    SummaryStatus,
)
from tests.conformance.test_service_rag import error_of
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import serving

QUOTE = Evidence(document_id="r1", span=Span(start=4, end=10), quote="bright")
POINT = KeyPoint(
    id="p1", name="bright", polarity=Polarity.POSITIVE, support=12, document_ids=("r1",), evidence=(QUOTE,)
)


def make(product: str, status: SummaryStatus) -> ProductSummary:
    sentence = SummarySentence(text="Many like it.", section="pros", key_points=("p1",), evidence=(QUOTE,))
    return ProductSummary(
        product=product,
        status=status,
        sentences=(sentence,),
        key_points=(POINT,),
        distribution=Distribution(reviews=60, reviewers=60),
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
    )


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    service = OperatedService(tmp_path)
    stored = [StoredSummary(current=make(one.value, one)) for one in SummaryStatus if one != "held"]
    held = StoredSummary(waiting=make("held", SummaryStatus.HELD))
    service.warehouse.summaries.put_many([*stored, held])
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
