"""A course assistant: from tables of questions and answers to the assistant that serves."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.collect import CollectRun, collect_links
from steps.course import CourseRun, choose_assistant
from steps.datasets import InstructDatasetRun, make_instruct_samples, write_instruct_dataset
from steps.features import FeatureRun, clean_documents
from steps.registry import PromotionPolicy


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def course_assistant(
    collect: CollectRun,
    instruct: InstructDatasetRun,
    promotion: PromotionPolicy,
    course: CourseRun,
    features: FeatureRun = FeatureRun(),
) -> None:
    """Collect tables, make a data set of what staff answered, compare the assistants, and choose the best fair one."""
    collect_links(collect)
    clean_documents(features, after="collect_links")
    samples, _ = make_instruct_samples(instruct, after="clean_documents")
    dataset, *_ = write_instruct_dataset(instruct, samples)
    choose_assistant(course, promotion, dataset)
