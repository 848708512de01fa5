"""Evaluation of retrieval and answers."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.rag_evaluation import RagEvaluationRun, check_rag_gate, evaluate_rag, make_question_set


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def rag_evaluation(rag_evaluation: RagEvaluationRun) -> None:
    """Ask questions of what the index holds, compare configurations, and let the gate decide."""
    questions = make_question_set(rag_evaluation)
    found, _, _ = evaluate_rag(rag_evaluation, questions)
    check_rag_gate(found)
