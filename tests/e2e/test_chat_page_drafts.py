"""Writing, editing and keeping conversations in the chat page, in a real browser against the real API."""

import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_engineering.application.inference.events import FORMATS
from tests.durations import allow
from tests.e2e.test_chat_page import LONG, Page, browser, problems
from tests.fakes.chromium import NO_CHROMIUM
from tests.fakes.llm import Reply, ScriptedLanguageModel
from tests.fakes.service import TwinService, serving

__all__ = ["browser", "problems"]
pytestmark = [
    pytest.mark.skipif(bool(NO_CHROMIUM), reason=NO_CHROMIUM),
    pytest.mark.xdist_group("browser"),
]
DRAFT = (
    "Overlap repeats the last sentences of a chunk at the start of the next chunk. "
    "Whales sing at night, and nobody knows why they do."
)
PAGE = Path(__file__).parents[2] / "llm_engineering" / "infrastructure" / "api" / "routes" / "static"
UNNAMED = """
const active = "button, a, input, select, textarea, summary, [role=button], [tabindex='0']";
const name = (node) => node.getAttribute("aria-label")
  || (/^(INPUT|SELECT|TEXTAREA)$/.test(node.tagName) ? node.labels[0]?.textContent : node.textContent).trim();
return [...document.querySelectorAll(active)].filter((node) => node.checkVisibility({ visibilityProperty: true }) && !name(node))
  .map((node) => node.outerHTML.slice(0, 150));
"""
NESTED = """
const active = "button, a, input, select, textarea, summary, [role=button]";
const outer = [...document.querySelectorAll(active)].filter((node) => node.querySelector(active));
return outer.map((node) => node.outerHTML.slice(0, 150));
"""
FAINT = """
const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return { r, g, b, a }; };
const light = ({ r, g, b }) => {
  const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const ground = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const found = parse(getComputedStyle(at).backgroundColor);
    if (found.a === 1) return found;
  }
  return { r: 255, g: 255, b: 255 };
};
const faint = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || node.closest(":disabled")) continue;
  if (!node.checkVisibility({ visibilityProperty: true })) continue;
  const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(walker.currentNode.data.trim().slice(0, 60));
}
return faint;
"""


@pytest.fixture
def fresh(browser: Any) -> None:
    """Forget what earlier tests left in the browser (ports come back, and with them origins), and scroll at once."""
    still = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", still)
    browser.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"})


def reopen(page: Page) -> None:
    page.browser.refresh()
    page.wait_until_ready()


def click(page: Page, selector: str) -> None:
    """Click what may stand below the edge of the conversation, as a reader does who scrolls there."""
    node = page.one(selector)
    page.browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", node)
    node.click()


def choose(page: Page, mode: str) -> None:
    page.browser.execute_script("document.querySelector(`input[value=${arguments[0]}]`).click()", mode)


def press(page: Page, text: str, within: str = "document") -> None:
    """Click the button with that text."""
    script = f"return [...{within}.querySelectorAll('button')].find((node) => node.textContent.trim() === arguments[0])"
    page.browser.execute_script("arguments[0].click()", page.browser.execute_script(script, text))


def write_draft(page: Page, request: str = "Chunk overlap") -> str:
    choose(page, "write")
    page.ask(request)
    return page.answered()


def start_editing(page: Page) -> Any:
    click(page, ".turn:last-child button[aria-label='Edit this draft']")
    page.wait("document.querySelector('.editor textarea') === document.activeElement")
    return page.one(".editor textarea")


def save(page: Page, version: int) -> None:
    click(page, ".editor .send")
    page.wait(
        f"document.querySelector('.editor [role=status]').textContent === 'Version {version} is saved.'"
    )


def twin_that_writes(*replies: Reply | str, **options: Any) -> TwinService:
    return TwinService(ScriptedLanguageModel(replies, default=DRAFT), **options)


@pytest.mark.usefixtures("problems", "fresh")
class TestWriting:
    def test_what_is_chosen_reaches_the_model_and_the_badges_say_what_came(self, browser: Any) -> None:
        from selenium.webdriver.support.ui import Select

        twin = twin_that_writes()
        with serving(twin.app) as url:
            page = Page(browser, url)
            assert not page.one("[name=format]").is_displayed()
            choose(page, "write")
            page.wait("document.querySelector('[name=authors]').options.length === 3")
            Select(page.one("[name=authors]")).select_by_value("Ben Okafor")
            Select(page.one("[name=format]")).select_by_value("newsletter")
            page.one("[name=words]").send_keys("80")
            page.ask("Chunk overlap")
            assert page.answered() == f"# Chunk overlap\n\n{DRAFT}"
            asked = "\n".join(message.content for message in twin.model.calls[-1].messages)  # type: ignore[attr-defined]
            for said in ("Ben Okafor", "newsletter", "80 words"):
                assert said in asked
            assert page.text(".answer-label").splitlines() == [
                "Written by AI",
                "1 of 2 sentences without a source",
            ]
            assert page.text("#send") == "Write"

    def test_where_several_models_are_served_one_is_chosen(self, browser: Any) -> None:
        from selenium.webdriver.support.ui import Select

        second = ScriptedLanguageModel(default="By the second.", name="second")
        with serving(twin_that_writes(more_models=[second]).app) as url:
            page = Page(browser, url)
            picker = page.one("#model-choice")
            assert [option.text for option in Select(picker).options] == ["scripted", "second"]
            Select(picker).select_by_value("second")
            assert write_draft(page) == "By the second."
            assert "second" in page.one(".made").get_attribute("textContent")

    def test_what_no_model_wrote_is_not_called_written_by_ai(self, browser: Any) -> None:
        with serving(twin_that_writes().app) as url:
            page = Page(browser, url)
            choose(page, "catalogue")
            page.ask("everything")
            page.answered()
            assert page.text(".answer-label") == "From the collection"

    def test_a_draft_is_changed_by_the_model_on_demand(self, browser: Any) -> None:
        twin = twin_that_writes(DRAFT, "Overlap, in short.")
        with serving(twin.app) as url:
            page = Page(browser, url)
            write_draft(page)
            press(page, "Have it changed")
            assert "Changing the draft “Chunk overlap”" in page.text("#revising")
            page.ask("Say it in a tenth of the words, and leave the animals out of it altogether")
            page.wait("document.querySelectorAll('.made').length === 2")
            assert page.text(".turn:last-child .answer") == "Overlap, in short."
            asked = "\n".join(message.content for message in twin.model.calls[-1].messages)  # type: ignore[attr-defined]
            assert DRAFT in asked
            assert not page.one("#revising").is_displayed()

    def test_a_service_that_keeps_nothing_offers_no_editing_and_says_so(self, browser: Any) -> None:
        with serving(twin_that_writes(keep_answers=False).app) as url:
            page = Page(browser, url)
            write_draft(page)
            assert page.all("button[aria-label='Edit this draft']") == []
            assert "not kept" in page.text(".remark.warn")
            assert "something was missing" in page.text(".answer-label")


@pytest.mark.usefixtures("problems", "fresh")
class TestEditor:
    def test_an_edit_is_saved_shown_compared_and_there_after_a_reload(self, browser: Any) -> None:
        twin = twin_that_writes()
        with serving(twin.app) as url:
            page = Page(browser, url)
            write_draft(page)
            area = start_editing(page)
            assert area.get_attribute("value") == DRAFT
            meters = page.text(".editor .meters")
            assert "25 of about 130" in meters
            assert "1 of 2 sentences of the draft" in meters
            assert page.one(".source").is_displayed()
            assert not page.one(".editor .send").is_enabled(), "nothing is changed yet"
            area.clear()
            assert not page.one(".editor .send").is_enabled(), "an empty text is no edit"
            area.send_keys(DRAFT.replace("Whales sing", "Owls call"))
            save(page, 1)
            [kept] = twin.warehouse.drafts.read_edited()
            assert kept.text == DRAFT.replace("Whales sing", "Owls call")
            area.send_keys(" The end.")
            save(page, 2)
            press(page, "Show changes")
            page.wait("document.querySelector('.diff ins') !== null")
            assert [node.text for node in page.all(".diff del")] == ["Whales", "sing"]
            assert page.text(".diff ins:last-of-type").strip() == "The end."
            assert page.text(".turn .answer").endswith("The end.")
            assert "edited by you, version 2" in page.text(".answer-label")
            reopen(page)
            page.wait("document.querySelector('.turn .answer')?.textContent.endsWith('The end.')")
            assert start_editing(page).get_attribute("value").endswith("The end.")

    def test_of_two_windows_neither_text_is_lost(self, browser: Any) -> None:
        twin = twin_that_writes()
        with serving(twin.app) as url:
            page = Page(browser, url)
            write_draft(page)
            area = start_editing(page)
            [draft] = twin.warehouse.drafts.read_page(1)
            theirs = {"text": "Theirs.", "base_revision": 0}
            httpx.put(f"{url}/drafts/{draft.id}", json=theirs).raise_for_status()
            area.send_keys(" Mine.")
            click(page, ".editor .send")
            page.wait("document.querySelector('.editor .problem') !== null")
            assert "saved meanwhile" in page.text(".editor .problem")
            assert area.get_attribute("value") == f"{DRAFT} Mine."
            press(page, "Save mine over it")
            page.wait("document.querySelector('.editor [role=status]').textContent === 'Version 2 is saved.'")
            kept = twin.warehouse.drafts.find(draft.id)
            assert kept is not None
            assert [version.text for version in kept.edits] == ["Theirs.", f"{DRAFT} Mine."]

    def test_what_broke_off_can_be_finished_by_hand(self, browser: Any) -> None:
        twin = twin_that_writes(Reply(f"{DRAFT} {LONG}", seconds_per_piece=0.02))
        with serving(twin.app) as url:
            page = Page(browser, url)
            choose(page, "write")
            page.ask("Chunk overlap")
            page.wait("document.querySelector('.answer')?.textContent.includes('Word2')")
            assert re.search(r"Writing · \d+ words · \d+ s", page.text(".progress"))
            click(page, "#stop")
            page.wait("document.querySelector('.turn').innerText.includes('Stopped.')")
            assert "unfinished" in page.text(".answer-label")
            assert "Word2" in start_editing(page).get_attribute("value")

    def test_a_model_that_fails_in_mid_draft_leaves_what_it_wrote_to_be_edited(self, browser: Any) -> None:
        twin = twin_that_writes(Reply(DRAFT, fail_after=18))
        with serving(twin.app) as url:
            page = Page(browser, url)
            choose(page, "write")
            page.ask("Chunk overlap")
            page.wait("document.querySelector('.turn .problem') !== null")
            area = start_editing(page)
            area.send_keys(" I end it myself.")
            save(page, 1)
            [kept] = twin.warehouse.drafts.read_edited()
            assert kept.unfinished
            assert kept.text.endswith("I end it myself.")

    def test_unsaved_changes_are_not_dropped_by_one_key(self, browser: Any) -> None:
        from selenium.webdriver.common.keys import Keys

        with serving(twin_that_writes().app) as url:
            page = Page(browser, url)
            write_draft(page)
            area = start_editing(page)
            area.send_keys(" Mine.", Keys.ESCAPE)
            assert "not saved" in page.text(".editor .problem")
            area.send_keys(Keys.CONTROL + Keys.ENTER)
            page.wait("document.querySelector('.editor [role=status]').textContent === 'Version 1 is saved.'")
            page.one(".editor textarea").send_keys(Keys.ESCAPE)
            page.wait("document.querySelector('.editor') === null")

    def test_drafts_of_the_service_are_listed_and_open_with_their_newest_version(self, browser: Any) -> None:
        twin = twin_that_writes()
        with serving(twin.app) as url:
            made = httpx.post(f"{url}/write", json={"request": "Chunk overlap"}).json()
            body = {"text": "Mine alone.", "base_revision": 0}
            httpx.put(f"{url}/drafts/{made['draft_id']}", json=body).raise_for_status()
            page = Page(browser, url)
            page.wait("document.querySelector('#draft-list button') !== null")
            assert page.text("#draft-list .entry-meta") == "Ada Winter · post · version 1"
            click(page, "#draft-list button")
            page.wait("document.querySelector('.editor textarea')?.value === 'Mine alone.'")
            assert page.text(".turn .answer") == "Mine alone."


@pytest.mark.usefixtures("problems", "fresh")
class TestConversations:
    def test_they_are_kept_renamed_and_deleted_in_the_browser(self, browser: Any) -> None:
        with serving(TwinService().app) as url:
            page = Page(browser, url)
            page.ask()
            page.answered()
            click(page, "#new-chat")
            page.ask("What does a feature store keep that training and serving share?")
            page.answered()
            reopen(page)
            page.wait("document.querySelectorAll('#conversation-list li').length === 2")
            page.wait(
                "document.querySelector('.turn .question')?.textContent.startsWith('What does a feature')"
            )
            assert page.all(".cite"), "citations of a kept answer work as before"
            click(page, "#conversation-list li:last-child .entry")
            page.wait("document.querySelector('.turn .question').textContent.startsWith('What does overlap')")
            click(page, "#conversation-list li:last-child summary")
            press(page, "Rename", "document.querySelector('#conversation-list li:last-child')")
            page.type("About overlap", "\n")
            titles = [node.text for node in page.all("#conversation-list .entry-title")]
            assert "About overlap" in titles
            item = 1 + titles.index("About overlap")
            click(page, f"#conversation-list li:nth-child({item}) summary")
            press(page, "Delete", f"document.querySelector('#conversation-list li:nth-child({item})')")
            page.wait("document.querySelectorAll('#conversation-list li').length === 1")
            assert page.all(".turn") == []
            click(page, "#undo-delete")
            page.wait("document.querySelectorAll('#conversation-list li').length === 2")

    def test_they_are_exported_as_markdown_and_json(self, browser: Any, tmp_path: Path) -> None:
        allowed = {"behavior": "allow", "downloadPath": str(tmp_path)}
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
        with serving(TwinService().app) as url:
            page = Page(browser, url)
            page.ask()
            page.answered()
            for name in ("Markdown", "JSON"):
                press(page, f"Save as {name}")
            names = [
                f"what-does-overlap-repeat-at-the-start-of-the-next-chunk.{end}" for end in ("md", "json")
            ]
            deadline = time.monotonic() + allow(10)
            while not all((tmp_path / name).is_file() for name in names) and time.monotonic() < deadline:
                time.sleep(0.05)
            markdown = (tmp_path / names[0]).read_text(encoding="utf-8")
            assert markdown.startswith("# What does overlap repeat")
            assert "1. [Chunk overlap](<https://ada.example/chunk-overlap>)" in markdown
            kept = json.loads((tmp_path / names[1]).read_text(encoding="utf-8"))
            assert kept["turns"][0]["result"]["answer"]["cited"] == [1]

    def test_a_browser_without_room_drops_the_oldest_and_says_so(self, browser: Any) -> None:
        with serving(TwinService().app) as url:
            page = Page(browser, url)
            browser.execute_script(
                "const filler = { id: 'old', title: 'old', at: 1, turns: [], more: 'x'.repeat(5e6) };"
                "for (let n = 5e6; n > 1e5; n -= 1e5) {"
                "  try { localStorage.setItem('twin-chat-old', JSON.stringify({ ...filler, more: 'x'.repeat(n) })); break; }"
                "  catch {} }"
                "for (;;) { try { localStorage.setItem('pad' + localStorage.length, 'x'.repeat(1000)); } catch { break; } }"
            )
            page.ask()
            page.answered()
            page.wait("document.querySelector('#announce').textContent.includes('dropped to make room')")
            assert [node.text for node in page.all(".entry-title")] == [page.text(".turn .question")]

    def test_markup_in_a_kept_conversation_stays_text(self, browser: Any) -> None:
        evil = "<img src=x onerror=document.title='owned'>"
        with serving(twin_that_writes(f"{evil} overlap repeats sentences.").app) as url:
            page = Page(browser, url)
            write_draft(page)
            start_editing(page).send_keys(evil)
            save(page, 1)
            press(page, "Show changes")
            page.wait("document.querySelector('.diff') !== null")
            click(page, ".entry-menu summary")
            press(page, "Rename")
            page.type(evil, "\n")
            choose(page, "answer")
            page.ask(evil)
            page.wait("document.querySelectorAll('.made').length === 2")
            reopen(page)
            page.wait("document.querySelector('.turn .question') !== null")
            assert page.all("main img, nav img, main script, nav script") == []
            assert browser.title == "LLM twin"

    def test_an_entry_that_cannot_be_read_is_passed_over(self, browser: Any) -> None:
        with serving(TwinService().app) as url:
            page = Page(browser, url)
            browser.execute_script(
                "localStorage.setItem('twin-chat-a', '{broken'); localStorage.setItem('twin-chat-b', '[]');"
                "sessionStorage.setItem('twin-current', 'a');"
            )
            reopen(page)
            page.ask()
            page.answered()
            assert len(page.all("#conversation-list li")) == 1


@pytest.mark.usefixtures("problems", "fresh")
class TestForEverybody:
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_every_control_has_a_name_and_every_text_is_readable(self, browser: Any, theme: str) -> None:
        with serving(twin_that_writes().app) as url:
            page = Page(browser, url)
            browser.execute_script("localStorage.setItem('twin-theme', arguments[0])", theme)
            reopen(page)
            assert browser.execute_script(FAINT) == []
            page.ask()
            page.answered()
            click(page, ".cite")
            page.ask("Draft a post about chunk overlap")
            page.wait("document.querySelectorAll('.made').length === 2")
            area = start_editing(page)
            area.send_keys(" Mine.")
            save(page, 1)
            press(page, "Show changes")
            page.wait("document.querySelector('.diff') !== null")
            press(page, "Have it changed")
            for summary in (".more summary", ".entry-menu summary", ".made summary"):
                page.one(summary).click()
            assert browser.execute_script(UNNAMED) == []
            assert browser.execute_script(NESTED) == []
            assert browser.execute_script(FAINT) == []
            identifiers = [node.get_attribute("id") for node in page.all("[id]")]
            assert len(identifiers) == len(set(identifiers))

    def test_on_a_phone_conversations_are_a_sheet_and_the_editor_fits(self, browser: Any) -> None:
        from selenium.webdriver.common.keys import Keys

        phone = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        overflow = "return document.documentElement.scrollWidth - window.innerWidth"
        shut = "getComputedStyle(document.querySelector('#history')).visibility === 'hidden'"
        try:
            with serving(twin_that_writes().app) as url:
                page = Page(browser, url)
                assert not page.one("#history").is_displayed()
                assert not page.one("[name=authors]").is_displayed()
                click(page, "#filters > summary")
                assert page.one("[name=authors]").is_displayed()
                assert browser.execute_script(overflow) <= 0
                write_draft(page)
                start_editing(page)
                assert browser.execute_script(overflow) <= 0
                toggle = page.one("#toggle-history")
                toggle.click()
                page.wait(f"!({shut})")
                assert toggle.get_attribute("aria-expanded") == "true"
                assert page.text("#conversation-list .entry-title") == "Chunk overlap"
                page.type(Keys.ESCAPE)
                page.wait(shut)
                assert browser.switch_to.active_element == toggle
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_offers_the_formats_that_there_are() -> None:
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    offered = re.findall(r'<option value="(\w+)">', text)
    assert sorted(offered) == sorted(FORMATS)
