"""The API's own page in a real browser: every route can be tried, and is shown as a command that works."""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_engineering.domain.reviews import LABEL, VOTE_TASK, StoredSummary, SummaryStatus
from tests.conformance.test_service_products import REVIEW, make
from tests.e2e.test_chat_page import Page, browser, problems
from tests.fakes.chromium import NO_CHROMIUM
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import TwinService, serving

__all__ = ["browser", "problems"]

pytestmark = [
    pytest.mark.skipif(bool(NO_CHROMIUM), reason=NO_CHROMIUM),
    pytest.mark.xdist_group("browser"),
]


class DocsPage(Page):
    def wait_until_ready(self) -> None:
        self.wait("!document.querySelector('#key-box').hidden")

    def open(self, method: str, path: str) -> str:
        """Unfold the form of a route; returns a selector of it."""
        form = f"form[data-method='{method}'][data-path='{path}']"
        self.browser.execute_script(f'document.querySelector("{form}").closest("details").open = true')
        return form

    def send(self, form: str) -> tuple[str, str]:
        """The status and what came back."""
        self.one(f"{form} button").click()
        self.wait(f'/^\\d|reached/.test(document.querySelector("{form} .status").textContent)')
        return self.text(f"{form} .status"), self.browser.execute_script(
            f'return document.querySelector("{form} .answer").textContent'
        )


@pytest.mark.usefixtures("problems")
def test_every_example_works_as_it_stands(browser: Any) -> None:
    with serving(TwinService().app) as url:
        page = DocsPage(browser, f"{url}/docs")
        described = httpx.get(f"{url}/openapi.json").json()["paths"]
        bodies = [path for path, methods in described.items() if "requestBody" in methods.get("post", {})]
        for path in bodies:
            form = page.open("POST", path)
            # A file; an answer that was given; a task and a customer service that this service does not have.
            other = {"/documents", "/feedback", "/predict", "/invocations", "/vertex/predict"}
            if path not in other and "{" not in path:
                status, answer = page.send(form)
                assert status.startswith("200 "), (path, answer)
        status, answer = page.send(page.open("POST", "/rag/stream"))
        assert "event: done" in answer
        status, answer = page.send(page.open("GET", "/info"))
        assert json.loads(answer)["name"] == "llm-twin"
        form = page.open("GET", "/v1/models/{model_id}")
        page.one(f"{form} [name=model_id]").send_keys("llm-twin")
        assert page.send(form)[0].startswith("200 ")


@pytest.mark.usefixtures("problems")
def test_the_command_does_what_the_form_does(browser: Any) -> None:
    with serving(TwinService().app) as url:
        page = DocsPage(browser, f"{url}/docs")
        form = page.open("POST", "/search")
        area = page.one(f"{form} textarea")
        area.clear()
        area.send_keys(json.dumps({"query": "What's overlap?", "k": 1}))
        command = shlex.split(page.text(f"{form} .curl"))
        assert command[0] == "curl"
        ran = subprocess.run(
            ["curl", "-sS", *command[1:]], capture_output=True, text=True, timeout=30, check=True
        )
        assert len(json.loads(ran.stdout)["hits"]) == 1


def test_a_key_is_sent_and_not_shown(browser: Any, tmp_path: Path) -> None:
    service = OperatedService(tmp_path)
    secret = service.keys.create("ada")
    with serving(service.app) as url:
        browser.get(url)
        browser.execute_script(f"sessionStorage.setItem('twin-api-key', '{secret}')")
        page = DocsPage(browser, f"{url}/docs")
        form = page.open("GET", "/info")
        status, _ = page.send(form)
        assert status.startswith("200 ")
        assert secret not in page.text("body")
        assert "$SERVICE_API_KEY" in page.text(f"{form} .curl")
        browser.execute_script("sessionStorage.clear()")
        page = DocsPage(browser, f"{url}/docs")
        assert page.send(page.open("GET", "/info"))[0].startswith("401 ")


class ProductPage(Page):
    def wait_until_ready(self) -> None:
        self.wait("document.querySelector('#vote') && !document.querySelector('#vote').hidden")


@pytest.mark.usefixtures("problems")
def test_a_reader_sees_the_reviews_behind_a_point_and_votes(browser: Any, tmp_path: Path) -> None:
    service = OperatedService(tmp_path)
    service.warehouse.summaries.put_many([StoredSummary(current=make("ready", SummaryStatus.READY))])
    service.warehouse.clean.upsert([REVIEW])
    with serving(service.app) as url:
        page = ProductPage(browser, f"{url}/products/ready")
        assert LABEL in page.text("body")
        assert not page.one("mark").is_displayed()
        page.one("details > summary").click()
        assert page.text("mark") == "bright"
        for rating, votes in (("down", (0, 1)), ("up", (1, 0))):  # the reader thinks better of it
            page.one(f"[data-rating={rating}]").click()
            page.wait(f"document.querySelector('[data-rating={rating}][aria-pressed=true]')")
            assert list(service.warehouse.feedback.count_votes(VOTE_TASK).values()) == [votes]
        browser.refresh()
        page.wait_until_ready()
        assert page.one("[data-rating=up]").get_attribute("aria-pressed") == "true"
