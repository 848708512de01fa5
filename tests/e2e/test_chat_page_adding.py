"""Adding writing on the chat page, in a real browser: chosen files, what became of each, and who may."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_chat_page import Page, browser, problems
from tests.fakes.chromium import NO_CHROMIUM
from tests.fakes.files import make_pdf
from tests.fakes.index import FakeVectorIndex
from tests.fakes.operated_service import OperatedService
from tests.fakes.service import serving

__all__ = ["browser", "problems"]

pytestmark = [
    pytest.mark.skipif(bool(NO_CHROMIUM), reason=NO_CHROMIUM),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    good, bad = tmp_path / "sundials.md", tmp_path / "scan.pdf"
    good.write_text("# Sundials\n\nThe sundial of our town shows the true noon.\n")
    bad.write_bytes(make_pdf([[]]))
    return [good, bad]


@pytest.mark.usefixtures("problems")
class TestAdding:
    def test_what_became_of_each_file_is_told_and_its_author_can_be_chosen(
        self, browser: Any, tmp_path: Path, files: list[Path]
    ) -> None:
        service = OperatedService(tmp_path / "service", index=FakeVectorIndex())
        with serving(service.app) as url:
            page = Page(browser, url)
            page.wait("!document.querySelector('#add-writing').hidden")
            if not page.one("#add-send").is_displayed():
                page.one("#toggle-history").click()
            page.one("#add-files").send_keys("\n".join(map(str, files)))
            page.one("#add-author").send_keys("Ada Winter")
            page.one("#add-send").click()
            page.wait(
                "document.querySelectorAll('#add-list p').length === 2 && !document.querySelector('#add-send').disabled"
            )
            told = page.text("#add-list")
            assert "sundials.md: 1 text added" in told
            assert "ocrmypdf" in told
            page.wait(
                "[...document.querySelectorAll('[name=authors] option')].some((one) => one.value === 'Ada Winter')"
            )
            assert [d.title for d in service.warehouse.documents.stream()] == ["Sundials"]

    def test_who_may_not_is_not_offered_it(self, browser: Any, tmp_path: Path) -> None:
        service = OperatedService(tmp_path / "service", max_document_bytes=0)
        with serving(service.app) as url:
            page = Page(browser, url)
            page.wait("document.querySelectorAll('[name=authors] option').length > 1")
            assert not page.one("#add-writing").is_displayed()
