"""Reports over HTTP: who may read them, and that neither a name nor a report does harm."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.conformance.test_service_rag import error_of
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import serving

HTML = "<!doctype html><style>p{color:red}</style><p>Recall 0.9</p><script>fetch('/info')</script>"


@pytest.fixture
def service(tmp_path: Path) -> OperatedService:
    folder = tmp_path / "reports"
    folder.mkdir()
    for age, name in enumerate(("new-rag_evaluation_report.html", "old-training_plot.html")):
        (folder / name).write_text(HTML)
        os.utime(folder / name, (1_700_000_000 - age, 1_700_000_000 - age))
    (folder / "notes.txt").write_text("no report")
    (tmp_path / "secret.html").write_text("secret")
    (folder / "link.html").symlink_to(tmp_path / "secret.html")
    return OperatedService(tmp_path)


@pytest.fixture
def client(service: OperatedService) -> Iterator[httpx.Client]:
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_reports_are_listed_and_shown(client: httpx.Client) -> None:
    reports = client.get("/reports").raise_for_status().json()["reports"]
    assert [one["name"] for one in reports] == ["new-rag_evaluation_report.html", "old-training_plot.html"]
    assert reports[0]["size_bytes"] == len(HTML)
    assert client.get(f"/reports/{reports[0]['name']}").text == HTML


def test_a_browser_gets_a_page_of_links(client: httpx.Client) -> None:
    page = client.get("/reports", headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert 'href="reports/new-rag_evaluation_report.html"' in page.text


def test_a_report_may_run_load_and_send_nothing(client: httpx.Client) -> None:
    headers = client.get("/reports/old-training_plot.html").headers
    policy = {part.strip().partition(" ")[0]: part for part in headers["content-security-policy"].split(";")}
    assert policy["sandbox"].strip() == "sandbox"
    assert policy["default-src"].strip() == "default-src 'none'"
    assert not [name for name in policy if name.startswith(("script-src", "connect-src", "frame-src"))]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "name",
    ["../secret.html", "link.html", "notes.txt", "/etc/passwd", "x\0.html", "none.html", "*"],
)
def test_a_name_that_is_not_in_the_list_leads_nowhere(client: httpx.Client, name: str) -> None:
    response = client.get(f"/reports/{quote(name, safe='')}")
    assert response.status_code == 404
    assert "secret" not in response.text


def test_who_has_a_key_needs_its_scope(client: httpx.Client, service: OperatedService) -> None:
    asking = service.keys.create("asking")
    reading = service.keys.create("reading", ("reports",))
    for path in ("/reports", "/reports/old-training_plot.html"):
        assert client.get(path).status_code == 401
        refused = client.get(path, headers={"X-API-Key": asking})
        assert (refused.status_code, error_of(refused)["code"]) == (403, "scope_missing")
        assert client.get(path, headers={"X-API-Key": reading}).status_code == 200
    for key, allowed in ((asking, False), (reading, True)):
        assert client.get("/info", headers={"X-API-Key": key}).json()["reports"] is allowed


def test_where_nothing_was_evaluated_the_list_is_empty(tmp_path: Path) -> None:
    service = OperatedService(tmp_path)
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        assert client.get("/reports").json() == {"reports": []}
