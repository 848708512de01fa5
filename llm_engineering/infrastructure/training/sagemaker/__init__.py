"""Training jobs on Amazon SageMaker, by boto3 alone.

A job is a run's files in S3 and a container that trains as this machine would. Everything is found again by the run's
identity: inputs are uploaded once, a job that runs is followed and not started twice, a new job of the same run goes on
from the checkpoints of the last.
"""

from llm_engineering.infrastructure.training.sagemaker.jobs import SageMakerJobs
from llm_engineering.infrastructure.training.sagemaker.request import SECRET_VARIABLE, JobPlace
from llm_engineering.infrastructure.training.sagemaker.secrets import read_secret

__all__ = ["SECRET_VARIABLE", "JobPlace", "SageMakerJobs", "read_secret"]
