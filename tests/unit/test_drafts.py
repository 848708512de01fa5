"""What changed between two versions of a draft, and the order of versions."""

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.inference import briefs
from llm_engineering.application.inference.events import FORMATS
from llm_engineering.domain.drafts import KEPT_EDITS, DraftDiff, StoredDraft, compare_versions
from tests.conformance.warehouse_contract import drafted, some_text
from tests.durations import allow

AT = datetime(2026, 12, 1, tzinfo=UTC)
texts = st.text(st.sampled_from("ab .\n\t\u2028\r"), max_size=40).filter(bool) | some_text


def compare(old: str, new: str) -> DraftDiff:
    found = compare_versions(drafted(text=old).revise(new, AT), 0, 1)
    assert found is not None
    return found


@given(old=texts, new=texts)
def test_what_stays_and_what_goes_is_the_old_text_and_what_stays_and_comes_the_new_one(
    old: str, new: str
) -> None:
    words = compare(old, new).words
    assert "".join(part.text for part in words if part.kind != "added") == old
    assert "".join(part.text for part in words if part.kind != "removed") == new


@given(old=texts, new=texts)
def test_changed_lines_are_lines_of_the_versions(old: str, new: str) -> None:
    lines = compare(old, new).lines
    assert {part.text for part in lines if part.kind == "removed"} <= set(old.split("\n"))
    assert {part.text for part in lines if part.kind == "added"} <= set(new.split("\n"))
    assert (old == new) == (not lines)


def test_far_lines_are_skipped() -> None:
    old = "\n".join(f"line {number}" for number in range(30))
    kinds = [part.kind for part in compare(old, old.replace("line 15", "Line 15")).lines]
    assert kinds == ["skipped", "same", "same", "same", "removed", "added", "same", "same", "same"]


@pytest.mark.parametrize("word", ["a ", "a\n", "ab"])
def test_a_long_text_that_repeats_itself_is_compared_in_time(word: str) -> None:
    began = time.monotonic()
    compare(word * 12_000, "b " + word * 11_000)
    assert time.monotonic() - began < allow(20)


def test_versions_are_numbered_on_when_old_ones_go() -> None:
    draft: StoredDraft = drafted(text="The draft.")
    for number in range(KEPT_EDITS + 5):
        draft = draft.revise(f"Version {number + 1}.", AT)
    assert draft.revision == KEPT_EDITS + 5
    assert [edit.revision for edit in draft.edits] == list(range(6, KEPT_EDITS + 6))
    assert draft.text == f"Version {KEPT_EDITS + 5}."
    assert draft.find_version(0) == "The draft."
    assert compare_versions(draft, 5, 6) is None
    assert compare_versions(draft, 6, 7) is not None


def test_every_form_that_can_be_asked_for_can_be_read() -> None:
    assert tuple(name for name, *_ in briefs._FORMS) == FORMATS
