"""The evaluation over an index in memory: table, recommendation, threshold, gate, report. No model but those that count words."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from llm_engineering.application.evaluation.rag import gate as gates
from llm_engineering.application.evaluation.rag.calibration import (
    Judgement,
    best_threshold,
    calibrate,
    compute_aurc,
    evaluate_threshold,
)
from llm_engineering.application.evaluation.rag.config import (
    SERVED,
    RagEvaluationRun,
    standard_configurations,
)
from llm_engineering.application.evaluation.rag.evaluate import (
    Evaluation,
    GateFailedError,
    Retrievers,
    check_gate,
    evaluate_retrieval,
)
from llm_engineering.application.evaluation.rag.questions import (
    Labelled,
    Question,
    Relevant,
    Resolved,
    Target,
)
from llm_engineering.application.evaluation.rag.recommend import recommend
from llm_engineering.application.evaluation.rag.report import as_yaml, html_report, table_columns, table_rows
from llm_engineering.application.evaluation.rag.retrieval import Row
from llm_engineering.application.evaluation.statistics import Comparison, Interval
from llm_engineering.application.inference.retriever import RetrievalConfig
from llm_engineering.domain.documents import Chunk, EmbeddedChunk, Span
from llm_engineering.domain.errors import InvalidInputError, ModelError
from llm_engineering.domain.retrieval import MetadataFilter
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import FakeVectorIndex
from tests.fakes.reranker import ReadsPartsAlone

TOPICS = {
    "bees": "A smoker calms bees before the hive is opened.",
    "bread": "Sourdough rises by wild yeast and takes a day.",
    "boats": "A keel keeps a sailing boat from drifting sideways.",
    "clocks": "A pendulum swings at a rate that its length decides.",
    "tea": "Green tea turns bitter in boiling water.",
    "knots": "A bowline makes a loop that does not slip.",
}


class WordReranker(ReadsPartsAlone):
    """Counts shared words; fails on texts that hold ``fail_on``."""

    name = "words"

    def __init__(self, fail_on: str | None = None) -> None:
        self.fail_on = fail_on

    def rerank(self, query: str, texts: Any) -> list[float]:
        if self.fail_on is not None and self.fail_on in query:
            raise ModelError("told to fail")
        asked = set(query.casefold().strip("?").split())
        return [float(len(asked & set(text.casefold().split()))) for text in texts]

    def close(self) -> None:
        """Nothing is held."""


def build() -> tuple[FakeVectorIndex, HashEmbedder]:
    index, embedder = FakeVectorIndex(), HashEmbedder()
    chunks = [
        Chunk(
            id=f"{name}-{position}",
            document_id=name,
            document_version="1",
            position=position,
            span=Span(start=100 * position, end=100 * position + len(text)),
            text=text,
            tokens=10,
            category="article",
            title=name,
            link=f"https://x.org/{name}",
            platform="x",
            author="Ada Winter" if name < "c" else "Ben Okafor",
            author_id="a",
            language="en",
        )
        for name, first in TOPICS.items()
        for position, text in enumerate((first, f"Nothing else is said of {name} here."))
    ]
    vectors = embedder.embed_documents([chunk.embedding_text for chunk in chunks])
    with index.writer(embedder.fingerprint) as writer:
        writer.upsert(
            [
                EmbeddedChunk(chunk=chunk, vector=tuple(row.tolist()))
                for chunk, row in zip(chunks, vectors, strict=True)
            ]
        )
    return index, embedder


def asked() -> Resolved:
    found = [
        Labelled(
            Question(
                id=name,
                question=f"What about {' '.join(text.split()[1:4])}?",
                relevant=(Relevant(document_id=name, quote=text),),
                filter=MetadataFilter(authors=("Ada Winter",)) if name == "bees" else None,
            ),
            (Target(name, Span(start=0, end=len(text))),),
        )
        for name, text in TOPICS.items()
    ]
    found += [
        Labelled(Question(id=f"no-{word}", question=f"Why {word} {word}?", answerable=False, kind="foreign"))
        for word in ("volcano", "parliament", "dentist")
    ]
    return Resolved(tuple(found), {"gone": "there is no document 'gone'"})


def small_run(**fields: Any) -> RagEvaluationRun:
    return RagEvaluationRun.model_validate({"resamples": 500, "seed": 1, **fields})


async def evaluated(run: RagEvaluationRun | None = None, reranker: Any = None) -> Evaluation:
    index, embedder = build()
    retrievers = Retrievers(index, embedder, None, reranker or WordReranker())
    return await evaluate_retrieval(run or small_run(), asked(), retrievers, corpus="a <test>")


class TestTable:
    async def test_every_configuration_is_asked_every_question(self) -> None:
        evaluation = await evaluated()
        assert [row.name for row in evaluation.rows] == list(standard_configurations())
        assert all(len(run.runs) == 9 for run in evaluation.runs)
        assert all(len(run.select_answerable()) == 6 for run in evaluation.runs)
        assert evaluation.rows[0].against is None
        assert all(row.against and row.against.p_corrected is not None for row in evaluation.rows[1:])

    async def test_what_is_measured_is_what_the_search_finds(self) -> None:
        evaluation = await evaluated()
        sparse = next(row for row in evaluation.rows if row.name == "sparse")
        assert sparse.means["recall@5"] == 1.0
        found = next(run for run in evaluation.runs if run.name == "sparse").runs[0]
        assert found.sources[0].relevant
        assert found.sources[0].document_id == "bees"

    async def test_wider_passages_show_what_they_cost(self) -> None:
        evaluation = await evaluated()
        by_name = {row.name: row for row in evaluation.rows}
        assert by_name["hybrid + parents"].characters > by_name["hybrid"].characters

    async def test_a_reranker_that_fails_is_counted_and_not_hidden(self) -> None:
        evaluation = await evaluated(reranker=WordReranker(fail_on="volcano"))
        degraded = {row.name: row.degraded for row in evaluation.rows}
        assert degraded["hybrid + rerank"] == 1
        assert degraded["hybrid"] == 0

    async def test_without_a_reranker_its_rows_are_left_out(self) -> None:
        index, embedder = build()
        run = small_run(serving="hybrid")
        evaluation = await evaluate_retrieval(run, asked(), Retrievers(index, embedder), corpus="x")
        assert not any("rerank" in row.name for row in evaluation.rows)
        with pytest.raises(InvalidInputError, match="no reranker is configured"):
            await evaluate_retrieval(small_run(), asked(), Retrievers(index, embedder), corpus="x")

    async def test_a_question_that_is_refused_has_found_nothing_and_stops_nothing(self) -> None:
        index, embedder = build()
        questions = asked()
        first = questions.questions[0]
        endless = first.question.model_copy(update={"question": "why " * 2_000})
        broken = Resolved((replace(first, question=endless), *questions.questions[1:]), {})
        evaluation = await evaluate_retrieval(
            small_run(), broken, Retrievers(index, embedder, None, WordReranker()), corpus="x"
        )
        assert all(row.failed == 1 for row in evaluation.rows)
        assert evaluation.served.runs[0].metrics["recall@5"] == 0

    async def test_a_filter_restricts_every_search(self) -> None:
        evaluation = await evaluated(small_run(filter={"authors": ["Ada Winter"]}))
        found = {source.document_id for run in evaluation.runs for q in run.runs for source in q.sources}
        assert found <= {"bees", "bread", "boats"}

    async def test_the_same_seed_gives_the_same_table(self) -> None:
        first, second = await evaluated(), await evaluated()
        assert [row.intervals for row in first.rows] == [row.intervals for row in second.rows]
        assert [row.against for row in first.rows] == [row.against for row in second.rows]


class TestRecommendation:
    @staticmethod
    def row(name: str, value: float) -> Row:
        means = {"ndcg@5": value, "recall@5": value}
        against = Comparison(Interval(0.1, 0.05, 0.2), 0.01, 5, 0, 1, 0.02) if name != "dense" else None
        return Row(name, means, {}, against, 1, 1, 100, 0, 0, None)

    def pick(self, **values: float) -> str:
        names = {
            "dense": "dense",
            "hybrid": "hybrid",
            "reranked": "hybrid + rerank",
            "parents": "hybrid + parents",
        }
        rows_ = [self.row(names[key], value) for key, value in values.items()]
        return recommend(rows_, standard_configurations(), by=("ndcg@5", "recall@5")).name

    def test_the_best_wins(self) -> None:
        assert self.pick(dense=0.7, hybrid=0.8, reranked=0.9) == "hybrid + rerank"

    def test_among_equals_the_cheapest(self) -> None:
        assert self.pick(dense=0.8, hybrid=0.8, reranked=0.802) == "dense"

    def test_reading_more_text_is_no_better_search(self) -> None:
        assert self.pick(dense=0.7, hybrid=0.8, parents=0.95) == "hybrid"

    def test_what_to_set_is_said(self) -> None:
        found = recommend(
            [self.row("weighted 0.3", 0.9), self.row("dense", 0.2)], standard_configurations(), by=("ndcg@5",)
        )
        written = yaml.safe_load(as_yaml({"retrieval": dict(found.settings)}))
        read = RetrievalConfig.model_validate(written["retrieval"])
        assert read == standard_configurations()["weighted 0.3"].retrieval
        assert "large enough" in found.reason


class TestCalibration:
    MIXED = (
        Judgement(0.9, True, True),
        Judgement(0.8, True, False),
        Judgement(0.7, True, True),
        Judgement(0.4, False, False),
        Judgement(0.2, False, False),
    )

    def test_risk_and_coverage_at_a_threshold(self) -> None:
        point = evaluate_threshold(self.MIXED, 0.5)
        assert (point.coverage, point.answered_share, point.declined_share) == (0.6, 1.0, 1.0)
        assert point.risk == pytest.approx(1 / 3)

    def test_the_area_by_hand(self) -> None:
        assert compute_aurc(self.MIXED) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4 + 3 / 5) / 5)

    def test_equal_confidences_count_in_no_lucky_order(self) -> None:
        pair = [Judgement(0.5, True, True), Judgement(0.5, False, False)]
        assert compute_aurc(pair) == compute_aurc(pair[::-1]) == 0.5

    def test_the_threshold_lies_between_the_two_sorts(self) -> None:
        assert best_threshold(self.MIXED) == pytest.approx(0.55)

    def test_new_questions_are_judged_by_thresholds_that_have_not_seen_them(self) -> None:
        many = [Judgement(0.5 + i / 100, True, True) for i in range(20)]
        many += [Judgement(0.4 - i / 100, False, False) for i in range(20)]
        found = calibrate(many, 0.0, seed=0)
        assert found.held_out.declined_share == 1.0
        assert found.configured.declined_share == 0.0
        assert [point.threshold for point in found.curve] == sorted(
            {j.confidence for j in many}, reverse=True
        )

    def test_one_sort_alone_cannot_be_calibrated(self) -> None:
        with pytest.raises(InvalidInputError, match="needs answerable and unanswerable"):
            calibrate([Judgement(0.5, True, True)], 0.3, seed=0)


class TestGate:
    def gated(self, path: Path, **gate: Any) -> RagEvaluationRun:
        return small_run(gate={"baseline": str(path), "configuration": "hybrid", **gate})

    async def run(self, run: RagEvaluationRun) -> Evaluation:
        index, embedder = build()
        questions = Resolved(asked().questions, {})
        retrievers = Retrievers(index, embedder, None, WordReranker())
        return await evaluate_retrieval(run, questions, retrievers, corpus="x")

    async def test_a_run_holds_the_baseline_it_wrote(self, tmp_path: Path) -> None:
        path = tmp_path / "baseline.json"
        written = await self.run(self.gated(path, write_baseline=True))
        again = await self.run(self.gated(path))
        assert written.gate is not None
        assert again.gate is not None
        assert again.gate.passed
        check_gate(again.as_dict()["gate"])

    async def test_a_fall_beyond_chance_fails_and_names_the_questions(self, tmp_path: Path) -> None:
        path = tmp_path / "baseline.json"
        low = [name for name in TOPICS if name != "bees"]
        values = {
            name: 1.0 if name == "bees" else 2.0 for name in TOPICS
        }  # as if all but one had been better
        baseline = gates.Baseline(
            configuration="hybrid", metric="recall@5", mean=1.8, low=1.5, high=2, questions=values
        )
        gates.write_baseline(path, baseline)
        evaluation = await self.run(self.gated(path))
        assert evaluation.gate is not None
        assert evaluation.gate.worse == tuple(low)
        with pytest.raises(GateFailedError, match="worse than chance explains"):
            check_gate(evaluation.as_dict()["gate"])

    async def test_another_set_of_questions_needs_another_baseline(self, tmp_path: Path) -> None:
        path = tmp_path / "baseline.json"
        baseline = gates.Baseline(
            configuration="hybrid", metric="recall@5", mean=1, low=1, high=1, questions={"bees": 1, "old": 1}
        )
        gates.write_baseline(path, baseline)
        with pytest.raises(InvalidInputError, match=r"1 of its own are missing here \(old\), 5 are new"):
            await self.run(self.gated(path))

    async def test_stale_questions_are_no_reason_to_pass(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="gone: there is no document"):
            await evaluated(self.gated(tmp_path / "baseline.json"))

    def test_a_missing_baseline_says_how_to_write_one(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="write_baseline: true"):
            gates.read_baseline(tmp_path / "none.json")


class TestReport:
    async def test_it_stands_alone_and_escapes_what_others_wrote(self) -> None:
        page = html_report(await evaluated())
        assert "a &lt;test&gt;" in page
        assert "<test>" not in page
        assert "prefers-color-scheme: dark" in page
        for outside in ("<script", "<link", "http-equiv", "@import", "url("):
            assert outside not in page

    async def test_its_plots_are_well_formed_and_named(self) -> None:
        page = html_report(await evaluated())
        plots = [part.split("</svg>")[0] + "</svg>" for part in page.split("<svg")[1:]]
        titles = [ET.fromstring(f"<svg{plot}")[0].text for plot in plots]
        assert titles == ["recall@5 with 95 % intervals", "Risk and coverage"]

    async def test_the_table_marks_the_recommended_row(self) -> None:
        evaluation = await evaluated()
        lines = list(table_rows(evaluation))
        assert all(len(line) == len(table_columns(evaluation)) for line in lines)
        assert [line[0] for line in lines if line[0].endswith("*")] == [f"{evaluation.recommendation.name} *"]

    async def test_all_of_it_is_plain_json_with_every_question(self) -> None:
        evaluation = await evaluated()
        plain = json.loads(json.dumps(evaluation.as_dict()))
        assert set(plain["configurations"]) == set(standard_configurations())
        assert len(plain["configurations"][SERVED]["questions"]) == 9
        assert plain["stale"] == {"gone": "there is no document 'gone'"}
        assert evaluation.to_metadata()["unanswerable_questions"] == 3


class TestConfig:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"reference": "nothing"}, "reference names 'nothing'"),
            ({"questions": {}}, "name 'files' with questions"),
            ({"ks": [0, 5]}, "between 1 and 100"),
            ({"beir": {"folder": "x"}, "answers": {}}, "leave 'answers' out"),
            ({"configurations": {"dense": {"retrieval": {"mood": "dense"}}}}, "mood"),
        ],
    )
    def test_mistakes_are_refused_before_anything_runs(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            RagEvaluationRun.model_validate(fields)

    def test_the_served_row_runs_as_the_service_does_by_default(self) -> None:
        assert standard_configurations()[SERVED].retrieval == RetrievalConfig()

    def test_a_model_is_needed_only_where_one_is_asked(self) -> None:
        assert not RagEvaluationRun().needs_model
        assert RagEvaluationRun(expansion=True).needs_model
