"""Questions about records, and the heads that answer them."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.analysis import AnalysisQuestion, analyse_records, notify_drift, notify_outreach, train_heads


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def record_analysis(analysis: AnalysisQuestion) -> None:
    """Bring the results of an analysis up to date with the records of the warehouse, and tell whom its YAML says."""
    report = analyse_records(analysis)
    if analysis.outreach is not None:
        notify_outreach(analysis, report)
    if analysis.drift is not None:
        notify_drift(analysis, report)


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def head_training(analysis: AnalysisQuestion) -> None:
    """Learn the heads of an analysis from labels; those that are no worse than the present ones go into use."""
    train_heads(analysis)
