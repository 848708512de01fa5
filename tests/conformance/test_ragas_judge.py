"""ragas against a scripted judge over HTTP: right scores from right replies, missing ones from all others, and no word home."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from llm_engineering.application.evaluation.rag.answers import NOT_ASKED, JudgedSample, judge_answers
from llm_engineering.domain.errors import MissingDependencyError
from tests.fakes.embedder import HashEmbedder
from tests.fakes.judge_server import Fault, JudgeServer

pytest.importorskip("ragas", reason="needs the Poetry group evaluation")

from llm_engineering.infrastructure.evaluation.ragas import METRICS, RagasJudge

# Packages that ragas imports warn of themselves.
pytestmark = pytest.mark.filterwarnings("ignore")

SAMPLE = JudgedSample(
    question_id="q",
    question="What is a smoker?",
    answer="A smoker is a tin. It was invented on Mars.",
    contexts=("A smoker is a tin in which grass glows.", "Mars has two moons."),
    reference="A smoker is a tin. Grass glows in it.",
)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer(asks="What is a smoker?", doubted="Mars") as running:
        yield running


@pytest.fixture
async def judge(server: JudgeServer) -> AsyncIterator[RagasJudge]:
    made = RagasJudge(
        base_url=server.base_url,
        api_key="secret",
        model="judge-1",
        embed=HashEmbedder().embed_queries,
        timeout_seconds=5,
        max_retries=0,
    )
    yield made
    await made.close()
    await made.close()


async def test_scores_are_those_of_the_judges_verdicts(judge: RagasJudge, server: JudgeServer) -> None:
    scores = await judge.score(SAMPLE)
    assert scores.failures == {}
    assert scores.values["faithfulness"] == pytest.approx(0.5)  # one of two statements
    assert scores.values["answer_relevancy"] == pytest.approx(1.0, abs=1e-5)  # it would ask the same
    assert scores.values["context_precision"] == pytest.approx(1.0, abs=1e-5)  # the first of two is relevant
    assert scores.values["context_recall"] == pytest.approx(1.0)
    assert {body["model"] for body in server.requests} == {"judge-1"}
    assert set(server.authorizations) == {"Bearer secret"}


async def test_nothing_is_reported_to_its_makers(judge: RagasJudge) -> None:
    await judge.score(SAMPLE)
    from ragas._analytics import do_not_track

    assert os.environ["RAGAS_DO_NOT_TRACK"] == "true"
    assert do_not_track()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("nonsense", "not what was asked for"),
        ("wrong_fields", "not what was asked for"),
        ("error", "InternalServerError"),
        ("refused", "AuthenticationError"),
        ("cut", "APIConnectionError"),
    ],
)
async def test_a_broken_judge_leaves_scores_missing_with_the_reason(
    judge: RagasJudge, server: JudgeServer, fault: Fault, reason: str
) -> None:
    server.fault = fault
    scores = await judge.score(SAMPLE)
    assert scores.values == {}
    assert set(scores.failures) == set(METRICS)
    assert all(reason in failure for failure in scores.failures.values())


async def test_one_metric_that_fails_takes_no_other_with_it(judge: RagasJudge, server: JudgeServer) -> None:
    server.fault, server.fault_on = "nonsense", "NLIStatement"
    scores = await judge.score(SAMPLE)
    assert set(scores.failures) == {"faithfulness"}
    assert len(scores.values) == 3


async def test_without_a_reference_only_the_metrics_that_need_none_are_scored(judge: RagasJudge) -> None:
    scores = await judge.score(JudgedSample("q", SAMPLE.question, SAMPLE.answer, SAMPLE.contexts, ""))
    assert set(scores.values) == {"faithfulness", "answer_relevancy"}
    assert set(scores.failures.values()) == {"no reference answer"}


async def test_missing_scores_are_counted_and_a_dead_judge_is_given_up(
    judge: RagasJudge, server: JudgeServer
) -> None:
    server.fault = "refused"
    samples = [JudgedSample(f"q{i}", SAMPLE.question, SAMPLE.answer, SAMPLE.contexts, "x") for i in range(8)]
    found = await judge_answers(samples, judge)
    faithfulness = found.metrics["faithfulness"]
    assert (faithfulness.mean, faithfulness.scored, faithfulness.missing) == (None, 0, 8)
    assert faithfulness.reasons[NOT_ASKED] == 5
    assert len(server.requests) == 3 * len(METRICS)


async def test_without_the_package_the_group_to_install_is_named(
    judge: RagasJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ragas.llms", None)
    with pytest.raises(MissingDependencyError, match="--with evaluation"):
        await judge.score(SAMPLE)
