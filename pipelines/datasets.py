"""Data sets to train on."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.datasets import (
    InstructDatasetRun,
    PreferenceDatasetRun,
    make_instruct_samples,
    make_preference_samples,
    write_instruct_dataset,
    write_preference_dataset,
)


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def generate_instruct_dataset(instruct: InstructDatasetRun = InstructDatasetRun()) -> None:
    """Make instruction samples of what the warehouse holds, check them, and write the data set."""
    samples, _ = make_instruct_samples(instruct)
    write_instruct_dataset(instruct, samples)


@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def generate_preference_dataset(preference: PreferenceDatasetRun = PreferenceDatasetRun()) -> None:
    """Make preference triples of what the warehouse holds, check them, and write the data set."""
    samples, _ = make_preference_samples(preference)
    write_preference_dataset(preference, samples)
