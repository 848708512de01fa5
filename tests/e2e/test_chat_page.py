"""The chat page in a real browser, against the real API over a real socket; index, embedder and model are fakes."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.infrastructure.sources.browser.chromium import find_programs
from tests.fakes.chromium import NO_CHROMIUM
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import ANSWER, QUESTION, TwinService, Writing, serving, write

pytestmark = [
    pytest.mark.skipif(bool(NO_CHROMIUM), reason=NO_CHROMIUM),
    pytest.mark.xdist_group("browser"),
]
PATIENCE = 20.0
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking "
    "--disable-component-update --disable-sync --no-first-run --window-size=1280,860"
).split()
LONG = " ".join(f"Word{number} follows word{number - 1}." for number in range(1, 400))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    binary, driver = find_programs(None, None)
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


class Page:
    """The page as a reader uses it."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get(url)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        self.wait("document.querySelector('#model').textContent !== ''")

    def wait(self, condition: str) -> Any:
        """The condition's value, once it is true in the page."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if value := self.browser.execute_script(f"return {condition}"):
                return value
            time.sleep(0.05)
        text = self.browser.execute_script("return document.body.innerText")
        raise AssertionError(f"never true: {condition}\nthe page says:\n{text}")

    def type(self, *keys: str) -> None:
        self.browser.switch_to.active_element.send_keys(*keys)

    def ask(self, question: str = QUESTION) -> None:
        self.one("#question").send_keys(question, "\n")

    def answered(self) -> str:
        """The text of the newest answer, once it is finished."""
        self.wait("document.querySelector('.turn:last-child .made') !== null")
        return self.text(".turn:last-child .answer")

    def one(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", selector))

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)


@pytest.fixture
def problems(browser: Any) -> Iterator[None]:
    """Fails a test in which the browser complained: a script's error, a breach of the content policy."""
    browser.get_log("browser")
    yield
    # A status the page shows to its reader is no defect of the page.
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not [message for message in severe if "Failed to load resource" not in message]


@pytest.mark.usefixtures("problems")
class TestChatPage:
    def test_an_answer_is_labelled_and_its_sources_stand_beside_it(self, browser: Any) -> None:
        with serving(TwinService().app) as url:
            page = Page(browser, url)
            page.ask()
            answer = page.answered()
            assert answer.startswith("Overlap repeats the last sentences of a chunk")
            assert page.text(".turn .answer-label") == "Written by AI\nthe sentence has a source"
            assert page.text(".source .source-title") == "Chunk overlap"
            assert not page.one(".passage").is_displayed()
            page.one(".cite").click()
            assert "So a sentence that answers a question stays whole" in page.text(".passage blockquote")
            link = page.one(".passage a")
            assert link.get_attribute("href") == "https://ada.example/chunk-overlap"
            assert "noopener" in link.get_attribute("rel")

    def test_the_page_says_whose_twin_it_is_and_names_the_owner_first(self, browser: Any) -> None:
        with serving(TwinService(owner="ben okafor").app) as url:
            page = Page(browser, url)
            page.wait("document.querySelector('#collection').textContent.includes('Ben Okafor')")
            assert browser.title == "ben okafor’s twin"
            assert page.text("#whose") == "ben okafor’s twin"
            assert page.text("#collection").startswith("Answers come from the writing of Ben Okafor")

    def test_a_click_on_a_sentence_marks_the_words_that_back_it(self, browser: Any) -> None:
        invented = "Penguins invented the turbine in 1842."
        with serving(TwinService(ScriptedLanguageModel([f"{ANSWER} {invented}"])).app) as url:
            page = Page(browser, url)
            page.ask()
            page.answered()
            assert page.text(".sentence.unsupported") == invented
            page.one(".sentence.supported [role=button]").click()
            assert page.text(".passage mark").startswith("Overlap repeats the last sentences")

    def test_text_comes_while_the_model_still_writes_and_stop_ends_it(self, browser: Any) -> None:
        model = ScriptedLanguageModel([Reply(LONG, seconds_per_piece=0.02)])
        with serving(TwinService(model).app) as url:
            page = Page(browser, url)
            page.ask()
            page.wait("document.querySelector('.answer')?.textContent.includes('Word3')")
            assert page.one("#stop").is_displayed()
            page.one("#stop").click()
            page.wait("document.querySelector('.turn').innerText.includes('Stopped.')")
            deadline = time.monotonic() + PATIENCE
            while not model.calls[-1].cancelled and time.monotonic() < deadline:
                time.sleep(0.05)
            assert model.calls[-1].cancelled
            assert page.one("#send").is_displayed()
            assert "Word3" in page.text(".answer")

    def test_the_keyboard_alone_is_enough(self, browser: Any) -> None:
        from selenium.webdriver.common.keys import Keys

        model = ScriptedLanguageModel([Reply(LONG, seconds_per_piece=0.02), ANSWER])
        with serving(TwinService(model).app) as url:
            page = Page(browser, url)
            browser.execute_script("document.activeElement.blur()")
            page.type("/")
            page.type(QUESTION, Keys.SHIFT + Keys.ENTER + Keys.NULL, "Say it briefly.", Keys.ENTER)
            page.wait("document.querySelector('.answer')?.textContent.includes('Word3')")
            assert page.text(".question").splitlines() == [QUESTION, "Say it briefly."]
            page.type(Keys.ESCAPE)
            page.wait("document.querySelector('.turn').innerText.includes('Stopped.')")
            page.ask()
            page.answered()
            cite = page.one(".turn:last-child .cite")
            browser.execute_script("arguments[0].focus()", cite)
            page.type(Keys.ENTER)
            page.wait("document.querySelector('.source.current .passage:not([hidden])') !== null")
            assert browser.switch_to.active_element.get_attribute("aria-expanded") == "true"

    def test_a_vote_and_its_comment_reach_the_store(self, browser: Any) -> None:
        twin = TwinService()
        with serving(twin.app) as url:
            page = Page(browser, url)
            page.ask()
            page.answered()
            page.one("button[aria-label='A bad answer']").click()
            page.wait("document.querySelector('.comment') !== null")
            page.one(".comment input").send_keys("Too short", "\n")
            page.wait("document.querySelector('.turn').innerText.includes('your comment was kept')")
            [(interaction, feedback)] = list(twin.warehouse.feedback.read_votes())
            assert (feedback.rating, feedback.comment) == ("down", "Too short")
            assert interaction.question == QUESTION
            pressed = page.one("button[aria-label='A bad answer']").get_attribute("aria-pressed")
            assert pressed == "true"

    def test_an_answer_is_copied_with_the_sources_it_cites(self, browser: Any) -> None:
        with serving(TwinService().app) as url:
            grant = {"origin": url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
            browser.execute_cdp_cmd("Browser.grantPermissions", grant)
            page = Page(browser, url)
            page.ask()
            page.answered()
            page.one("button[aria-label^='Copy']").click()
            page.wait("document.querySelector('button[aria-label^=Copy]').innerText.includes('Copied')")
            copied = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
            assert copied.startswith("Overlap repeats the last sentences")
            assert copied.endswith('[1]: https://ada.example/chunk-overlap "Chunk overlap"')

    def test_a_failure_in_the_middle_keeps_what_came_and_says_what_happened(self, browser: Any) -> None:
        model = ScriptedLanguageModel([Reply(f"{ANSWER} {LONG}", fail_after=30), ANSWER])
        with serving(TwinService(model).app) as url:
            page = Page(browser, url)
            page.ask()
            page.wait("document.querySelector('.problem') !== null")
            assert "Overlap repeats" in page.text(".answer")
            assert page.text(".problem")
            page.one("button[aria-label='Ask again']").click()
            assert page.answered().startswith("Overlap repeats")

    def test_markup_in_documents_and_answers_stays_text(self, browser: Any) -> None:
        twin = TwinService(
            ScriptedLanguageModel(
                ["<img src=x onerror=document.title='owned'> overlap repeats sentences [1]"]
            )
        )
        evil = Writing(
            "<script>document.title='owned'</script>",
            "What does overlap repeat at the start of the next chunk? <b onclick=alert(1)>Overlap repeats sentences.</b>",
        )
        write(twin.index, twin.embedder, [evil])
        with serving(twin.app) as url:
            page = Page(browser, url)
            page.ask()
            page.answered()
            for head in page.all(".source > button"):
                head.click()
            assert page.all("main img, main script, .sources b, .sources script") == []
            assert browser.title == "LLM twin"
            assert any("<script>" in title.text for title in page.all(".source-title"))

    def test_filters_offer_what_exists_and_restrict_the_sources(self, browser: Any) -> None:
        from selenium.webdriver.support.ui import Select

        with serving(TwinService().app) as url:
            page = Page(browser, url)
            page.wait("document.querySelector('[name=authors]').options.length > 1")
            authors = Select(page.one("select[name=authors]"))
            assert [re.sub(r" \(\d+\)", "", option.text) for option in authors.options] == [
                "Any author",
                "Ada Winter",
                "Ben Okafor",
            ]
            authors.select_by_value("Ben Okafor")
            for name in ("categories", "published_from", "published_to"):
                assert page.one(f"[name={name}]").is_displayed(), "in sight, not folded away"
            page.ask("What does a feature store keep that training and serving share?")
            page.answered()
            assert page.all(".source-meta")
            assert all("Ben Okafor" in meta.text for meta in page.all(".source > button .source-meta"))

    def test_earlier_turns_go_along_until_a_new_chat_begins(self, browser: Any) -> None:
        twin = TwinService()
        with serving(twin.app) as url:
            page = Page(browser, url)
            page.ask()
            page.answered()
            page.ask("What does a feature store keep that training and serving share?")
            page.wait("document.querySelectorAll('.made').length === 2")
            said = "\n".join(message.content for message in twin.model.calls[-1].messages)  # type: ignore[attr-defined]
            assert QUESTION in said
            page.one("#new-chat").click()
            assert page.all(".turn") == []
            assert page.one("#welcome").is_displayed()

    def test_on_a_phone_the_sources_are_a_sheet_and_nothing_overflows(self, browser: Any) -> None:
        phone = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        try:
            with serving(TwinService().app) as url:
                page = Page(browser, url)
                page.ask()
                page.answered()
                assert not page.one("#sources").is_displayed()
                overflow = "return document.documentElement.scrollWidth - window.innerWidth"
                assert browser.execute_script(overflow) <= 0
                page.one(".cite").click()
                page.wait("getComputedStyle(document.querySelector('#sources')).visibility === 'visible'")
                assert "Overlap repeats" in page.text(".passage blockquote")
                time.sleep(0.3)  # the sheet slides in
                page.one("#close-sources").click()
                page.wait("getComputedStyle(document.querySelector('#sources')).visibility === 'hidden'")
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_dark_follows_the_system_until_the_reader_chooses(self, browser: Any) -> None:
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        try:
            with serving(TwinService().app) as url:
                page = Page(browser, url)
                ground = "getComputedStyle(document.body).backgroundColor"
                assert browser.execute_script(f"return {ground}") == "rgb(17, 20, 24)"
                page.one("#theme").click()
                assert browser.execute_script(f"return {ground}") == "rgb(246, 247, 249)"
                page = Page(browser, url)
                assert browser.execute_script(f"return {ground}") == "rgb(246, 247, 249)"
        finally:
            browser.execute_script("localStorage.clear()")
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def test_an_empty_collection_says_what_is_wrong(self, browser: Any) -> None:
        from tests.fakes.index import FakeVectorIndex

        with serving(TwinService(index=FakeVectorIndex()).app) as url:
            page = Page(browser, url)
            page.ask()
            page.wait("document.querySelector('.problem, .made') !== null")
            assert page.text(".turn")

    def test_a_service_with_keys_asks_for_one_and_refuses_a_wrong_one(
        self, browser: Any, tmp_path: Path
    ) -> None:
        service = OperatedService(tmp_path)
        key = service.keys.create("reader")
        with serving(service.app) as url:
            browser.get(url)
            page = Page.__new__(Page)
            page.browser = browser
            page.wait("document.querySelector('#key-dialog').open")
            page.one("#key").send_keys("twin_wrong", "\n")
            page.wait("document.querySelector('#key-problem').textContent.includes('refused')")
            page.one("#key").send_keys(key, "\n")
            page.wait("document.querySelector('#model').textContent !== ''")
            page.ask()
            assert page.answered().startswith("Overlap repeats")
            stored = browser.execute_script("return JSON.stringify(localStorage)")
            assert "Overlap repeats" in stored
            assert key not in stored, "the key stays in its tab"


def test_the_page_needs_no_build_and_loads_nothing_from_elsewhere() -> None:
    folder = Path(__file__).parents[2] / "llm_engineering" / "infrastructure" / "api" / "routes" / "static"
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"""(?:src|href|import|url\()\s*[=(]?\s*["']?(?:https?:)?//""", text), file.name
