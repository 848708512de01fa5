"""Answers measured by rule, over the serving pipeline with a scripted model."""

import pytest

from llm_engineering.application.evaluation.rag.answers import (
    AnswerRun,
    JudgedSample,
    Scores,
    answer_all,
    judge_answers,
    sample,
    select_judgeable,
    summarise_answers,
)
from llm_engineering.application.evaluation.rag.questions import Labelled, Question, Relevant, Target
from llm_engineering.application.inference.answer import AnsweringConfig
from llm_engineering.application.inference.pipeline import InferenceConfig, InferencePipeline
from llm_engineering.application.inference.retriever import RetrievalConfig, Retriever
from llm_engineering.domain.documents import Chunk, EmbeddedChunk, Span
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.llm import Reply, ScriptedLanguageModel

TEXT = "The smoker calms the bees because they fill themselves with honey."
OTHER = "A pendulum swings at a rate that only its length decides."
CONFIG = RetrievalConfig.model_validate({"rerank": {"enabled": False}, "k": 2})


def labelled(identifier: str, question: str, target: str | None) -> Labelled:
    if target is None:
        return Labelled(Question(id=identifier, question=question, answerable=False))
    place = Relevant(document_id=target, quote=TEXT)
    asked = Question(id=identifier, question=question, relevant=(place,))
    return Labelled(asked, (Target(target, Span(start=0, end=60)),))


def pipeline(*replies: Reply | str) -> InferencePipeline:
    index, embedder = FakeVectorIndex(), HashEmbedder()
    chunks = [
        Chunk(
            id=name,
            document_id=name,
            document_version="1",
            position=0,
            span=Span(start=0, end=len(text)),
            text=text,
            tokens=20,
            category="article",
            title="",
            link=name,
            platform="x",
            author="Ada",
            author_id="a",
            language="en",
        )
        for name, text in (("bees", TEXT), ("clocks", OTHER))
    ]
    vectors = embedder.embed_documents([chunk.embedding_text for chunk in chunks])
    with index.writer(embedder.fingerprint) as writer:
        writer.upsert(
            [EmbeddedChunk(chunk=c, vector=tuple(v.tolist())) for c, v in zip(chunks, vectors, strict=True)]
        )
    model = ScriptedLanguageModel(replies)
    config = InferenceConfig(retrieval=CONFIG, answering=AnsweringConfig(min_similarity=0.3))
    return InferencePipeline(
        Retriever(index, embedder, model, None, CONFIG), model, index, embedder, config=config
    )


WHY = "Why does the smoker calm the bees?"
SAID = "The smoker calms the bees because they fill themselves with honey [1]."


async def test_a_good_answer_is_supported_and_cites_the_place_asked_for() -> None:
    [run] = await answer_all([labelled("q", WHY, "bees")], pipeline(SAID), CONFIG)
    assert not run.abstained
    assert run.answer_cited
    assert run.citation_precision == 1.0
    assert run.supported_share == 1.0
    assert run.contexts[0] == TEXT
    assert run.reference == TEXT


async def test_citing_another_place_than_the_one_asked_for_is_no_precision() -> None:
    [run] = await answer_all([labelled("q", WHY, "clocks")], pipeline(SAID), CONFIG)
    assert run.citation_precision == 0.0
    assert not run.answer_cited


async def test_silence_counts_for_what_nothing_answers_and_against_what_something_does() -> None:
    asked = [labelled("a", "Zebra volcano parliament?", "bees"), labelled("n", "Dentist umbrella?", None)]
    metrics = summarise_answers(await answer_all(asked, pipeline(), CONFIG))
    assert metrics.answered_share == 0.0
    assert metrics.declined_share == 1.0
    assert metrics.citation_precision is None
    assert metrics.supported_share is None


async def test_a_model_that_fails_loses_one_answer() -> None:
    asked = [labelled("a", WHY, "bees"), labelled("b", WHY, "bees")]
    metrics = summarise_answers(await answer_all(asked, pipeline(Reply("x", fail_after=0), SAID), CONFIG))
    assert (metrics.answers, metrics.failed, metrics.answerable, metrics.answered_share) == (2, 1, 1, 1.0)
    assert "failed" in metrics.runs[0].error


def test_a_sample_keeps_the_shares_and_the_seed() -> None:
    questions = [labelled(f"a{i}", WHY, "bees") for i in range(30)]
    questions += [labelled(f"n{i}", WHY, None) for i in range(10)]
    chosen = sample(questions, 12, seed=4)
    assert sum(item.question.answerable for item in chosen) == 9
    assert len(chosen) == 12
    assert chosen == sample(questions, 12, seed=4) != sample(questions, 12, seed=5)
    assert sample(questions, 100, seed=0) == questions


class ScriptedJudge:
    """Scores in the order given; None is a missing score."""

    name = "scripted"
    metrics = ("faithfulness",)

    def __init__(self, *values: float | None) -> None:
        self.values = list(values)

    async def score(self, sample: JudgedSample) -> Scores:
        value = self.values.pop(0)
        return Scores({}, {"faithfulness": "shy"}) if value is None else Scores({"faithfulness": value}, {})

    async def close(self) -> None:
        """Nothing is held."""


async def test_means_are_over_the_scores_that_came() -> None:
    runs = [AnswerRun(f"q{i}", "?", True, text="x", contexts=("y",)) for i in range(3)]
    runs += [AnswerRun("silent", "?", True, abstained=True), AnswerRun("broken", "?", True, error="down")]
    found = await judge_answers(select_judgeable(runs), ScriptedJudge(1.0, None, 0.5))
    metric = found.metrics["faithfulness"]
    assert metric.mean == pytest.approx(0.75)
    assert (metric.scored, metric.missing, metric.reasons) == (2, 1, {"shy": 1})
