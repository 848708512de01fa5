"""Evaluation: questions asked of what the index holds, and what came of them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

from loguru import logger
from zenml import log_metadata, step
from zenml.types import HTMLString, MarkdownString

from llm_engineering.application.evaluation.rag import beir
from llm_engineering.application.evaluation.rag.answers import (
    answer_all,
    judge_answers,
    sample,
    select_judgeable,
    summarise_answers,
)
from llm_engineering.application.evaluation.rag.config import RagEvaluationRun
from llm_engineering.application.evaluation.rag.evaluate import (
    Evaluation,
    Retrievers,
    check_gate,
    evaluate_retrieval,
)
from llm_engineering.application.evaluation.rag.make_questions import make_questions
from llm_engineering.application.evaluation.rag.questions import (
    Question,
    Resolved,
    merge_questions,
    read_questions,
    resolve,
    write_questions,
)
from llm_engineering.application.evaluation.rag.report import html_report, table_columns, table_rows
from llm_engineering.application.inference.pipeline import InferenceConfig
from llm_engineering.application.ports import Progress, VectorIndex
from llm_engineering.bootstrap.resources import Resources
from steps.context import markdown_table, open_step_resources

__all__ = ["RagEvaluationRun", "check_rag_gate", "evaluate_rag", "make_question_set"]


@step(enable_cache=False)
def make_question_set(run: RagEvaluationRun) -> Annotated[dict[str, Any], "question_set"]:
    """Return questions of the run's files, and those made from the warehouse's documents where that is asked for."""
    if run.beir is not None:
        return {"questions": [], "refused": {}}
    found = [question for file in run.questions.files for question in read_questions(file)]
    made: list[Question] = []
    refused: dict[str, int] = {}
    if run.questions.make is not None:
        with open_step_resources() as (resources, progress):
            result = asyncio.run(_made(run, resources, progress))
        made, refused = list(result.questions), dict(result.refused)
        if run.questions.made_file is not None:
            write_questions(run.questions.made_file, made)
    questions = merge_questions(found, made)
    log_metadata({"questions": len(questions), "made": len(made)})
    dumped = [question.model_dump(mode="json", exclude_defaults=True) for question in questions]
    return {"questions": dumped, "refused": refused}


@step(enable_cache=False)
def evaluate_rag(
    run: RagEvaluationRun, question_set: dict[str, Any]
) -> tuple[
    Annotated[dict[str, Any], "rag_evaluation"],
    Annotated[MarkdownString, "rag_evaluation_table"],
    Annotated[HTMLString, "rag_evaluation_report"],
]:
    """Ask the questions under each configuration, compare, recommend, calibrate; then answer a part of them."""
    with open_step_resources() as (resources, progress), _index(run, resources, progress) as index:
        evaluation = asyncio.run(_evaluated(run, question_set, resources, index, progress))
    log_metadata(evaluation.to_metadata())
    table = markdown_table(table_columns(evaluation), table_rows(evaluation))
    return evaluation.as_dict(), table, HTMLString(html_report(evaluation))


@step(enable_cache=False)
def check_rag_gate(evaluation: dict[str, Any]) -> Annotated[dict[str, Any], "rag_gate"]:
    """Fail the run where retrieval got worse than the baseline; the report is stored by then."""
    check_gate(evaluation["gate"])
    return evaluation["gate"] or {"passed": True, "message": "no gate is configured"}


async def _made(run: RagEvaluationRun, resources: Resources, progress: Progress) -> Any:
    assert run.questions.make is not None
    model = resources.language_model if run.questions.make.with_model else None
    try:
        return await make_questions(
            resources.warehouse.clean, run.questions.make, seed=run.seed, model=model, progress=progress
        )
    finally:
        if model is not None:
            await model.close()


@contextmanager
def _index(run: RagEvaluationRun, resources: Resources, progress: Progress) -> Iterator[VectorIndex]:
    """The configured index, or one built from the BEIR folder for the time of the block."""
    if run.beir is None:
        yield resources.index
        return
    with resources.throwaway_index() as index:
        built = beir.build_index(
            run.beir.folder, index, resources.embedder, run.beir.chunking, progress=progress
        )
        for line in built.bad[: beir.SHOWN]:
            logger.warning("Left out: {}", line)
        logger.info("Indexed {} documents in {} chunks.", built.documents, built.chunks)
        yield index


async def _evaluated(
    run: RagEvaluationRun,
    question_set: dict[str, Any],
    resources: Resources,
    index: VectorIndex,
    progress: Progress,
) -> Evaluation:
    model = resources.language_model if run.needs_model else None
    try:
        evaluation = await evaluate_retrieval(
            run,
            _resolved(run, question_set, resources),
            Retrievers(index, resources.embedder, model, resources.reranker),
            corpus=f"BEIR: {run.beir.folder.name}" if run.beir else "the index",
            refused=question_set["refused"],
            by_document=run.beir is not None,
            progress=progress,
        )
        if run.answers is None or model is None:
            return evaluation
        return await _answered(run, evaluation, resources, progress)
    finally:
        if model is not None:
            await model.close()


def _resolved(run: RagEvaluationRun, question_set: dict[str, Any], resources: Resources) -> Resolved:
    if run.beir is not None:
        resolved, bad = beir.read_questions(run.beir.folder, run.beir.split, run.beir.queries, run.seed)
        for line in bad[: beir.SHOWN]:
            logger.warning("Left out: {}", line)
        return resolved
    questions = [Question.model_validate(item) for item in question_set["questions"]]
    return resolve(questions, resources.warehouse.clean)


async def _answered(
    run: RagEvaluationRun, evaluation: Evaluation, resources: Resources, progress: Progress
) -> Evaluation:
    assert run.answers is not None
    retrieval = run.table[run.serving].retrieval
    pipeline = resources.inference_pipeline(
        InferenceConfig(retrieval=retrieval, answering=run.answering), keep_answers=False
    )
    chosen = sample(evaluation.questions.questions, run.answers.questions, run.seed)
    try:
        answered = await answer_all(
            chosen,
            pipeline,
            retrieval,
            filter=run.filter,
            min_overlap=run.min_overlap,
            progress=progress,
        )
    finally:
        await pipeline.close()
    evaluation = replace(evaluation, answers=summarise_answers(answered))
    if not run.answers.judge:
        return evaluation
    judge = resources.answer_judge()
    try:
        return replace(
            evaluation, judged=await judge_answers(select_judgeable(answered), judge, progress=progress)
        )
    finally:
        await judge.close()
