"""What stands beside the conversation on the chat page, in a real browser: past conversations, and reports."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_chat_page import Page, browser, problems
from tests.fakes.chromium import NO_CHROMIUM
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import QUESTION, TwinService, serving

__all__ = ["browser", "problems"]

pytestmark = [
    pytest.mark.skipif(bool(NO_CHROMIUM), reason=NO_CHROMIUM),
    pytest.mark.xdist_group("browser"),
]
TITLES = "[...document.querySelectorAll('#conversation-list .entry-title')].map((one) => one.textContent)"
HOSTILE = "<!doctype html><title>r</title><p id=p>Recall 0.9</p><script>p.textContent = 'ran'</script>"


@pytest.mark.usefixtures("problems")
class TestHistory:
    def test_conversations_are_found_by_the_words_in_them(self, browser: Any) -> None:
        with serving(TwinService().app) as url:
            page = Page(browser, url)
            browser.execute_script("localStorage.clear()")
            page = Page(browser, url)
            for question in (QUESTION, "Where do penguins nest?"):
                page.one("#new-chat").click()
                page.ask(question)
                page.answered()
            if not page.one("#search").is_displayed():
                page.one("#toggle-history").click()
            search = page.one("#search")
            for words, count in (("nest WHERE", 1), ("overlap repeats", 1), ("xyzzy", 0)):
                search.clear()
                search.send_keys(words)
                page.wait(f"{TITLES}.length === {count}")
            assert "No conversation" in page.text("#no-conversations")
            search.clear()
            search.send_keys(" ")
            page.wait(f"{TITLES}.length === 2")


class TestReports:
    def test_a_report_opens_from_the_page_and_its_script_does_not_run(
        self, browser: Any, tmp_path: Path
    ) -> None:
        name = "rag_evaluation-2026_11_29-19_33_59_123456-rag_evaluation_report.html"
        (tmp_path / "reports").mkdir()
        (tmp_path / "reports" / name).write_text(HOSTILE)
        with serving(OperatedService(tmp_path).app) as url:
            page = Page(browser, url)
            page.wait("!document.querySelector('#reports').hidden")
            assert page.wait("document.querySelector('#report-list .entry-title').textContent") == (
                "rag evaluation"
            )
            browser.get(page.one("#report-list a").get_attribute("href"))
            assert page.text("#p") == "Recall 0.9"
            browser.get_log("browser")  # says that the script was blocked
            browser.get(f"{url}/reports")
            assert page.text("td a") == name.removesuffix(".html")
            assert page.one("td a").get_attribute("href") == f"{url}/reports/{name}"
