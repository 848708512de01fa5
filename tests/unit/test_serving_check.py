"""Reference answers and load of a model that was just put into service."""

from llm_engineering.application.deployment.serving_check import (
    LoadConfig,
    LoadReport,
    ReferenceQuestion,
    ServingCheckConfig,
    ask_references,
    list_shortfalls,
    put_under_load,
)
from llm_engineering.application.deployment.serving_check import (
    Reply as CheckedReply,
)
from tests.fakes.llm import Reply, ScriptedLanguageModel

YEAR = ReferenceQuestion(ask="In which year?", expect=("1911",))
PLACE = ReferenceQuestion(ask="Where?", expect=("Biscuit tin", "tin"))
CONFIG = ServingCheckConfig(
    questions=(YEAR, PLACE), min_right_share=0.8, load=LoadConfig(requests=10, concurrency=3)
)


async def test_an_answer_is_right_that_holds_one_of_the_expected_words_in_any_case() -> None:
    replies = await ask_references(ScriptedLanguageModel(["It was 1911.", "In a BISCUIT TIN."]), CONFIG)
    assert [reply.right for reply in replies] == [True, True]
    assert all(reply.first_seconds is not None for reply in replies)
    assert list_shortfalls(CONFIG, replies, None) == []


async def test_wrong_and_failed_answers_close_the_gate() -> None:
    model = ScriptedLanguageModel(["It was 1912.", Reply(fail_after=0, error="it is down")])
    replies = await ask_references(model, CONFIG)
    assert [reply.right for reply in replies] == [False, False]
    assert "it is down" in replies[1].error
    assert len(list_shortfalls(CONFIG, replies, None)) == 1


async def test_load_asks_all_and_no_more_than_is_allowed_at_once() -> None:
    model = ScriptedLanguageModel(default="It was 1911, in a tin.")
    assert CONFIG.load is not None
    report = await put_under_load(model, CONFIG, CONFIG.load)
    assert (report.requests, report.failed) == (10, 0)
    assert 0 < report.p50_seconds <= report.p95_seconds
    assert report.requests_per_second > 0


def test_what_is_missed_under_load_is_named() -> None:
    replies = [CheckedReply(YEAR, "1911", 0.1, 0.1)]
    slow = LoadReport(10, 1, 5.0, 31.0, 1.0)
    assert len(list_shortfalls(CONFIG, replies, slow)) == 2
    assert list_shortfalls(CONFIG, replies, LoadReport(10, 0, 5.0, 29.0, 1.0)) == []
    dead = LoadReport(10, 10, float("inf"), float("inf"), 0.0)
    assert len(list_shortfalls(CONFIG, replies, dead)) == 2
