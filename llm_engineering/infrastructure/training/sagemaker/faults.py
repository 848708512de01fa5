"""What AWS says when it does not do what it was asked to, with the setting to change."""

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from llm_engineering.domain.errors import ConfigurationError, TrainingError
from llm_engineering.infrastructure.shared.aws import DENIED, REFUSED_KEYS, explain_aws_errors, mask_ids

_BY_MESSAGE = (
    (
        r"assume|role arn|RoleArn",
        "Check SAGEMAKER_ROLE_ARN: a role of this account that sagemaker.amazonaws.com may assume.",
    ),
    (
        r"image|ECR|repository|manifest",
        "Check SAGEMAKER_IMAGE: pushed to ECR in this region, and readable to SAGEMAKER_ROLE_ARN.",
    ),
    (r"KMS|kms key", "Check SAGEMAKER_KMS_KEY and SAGEMAKER_VOLUME_KMS_KEY."),
    (r"subnet|security group|VPC", "Check SAGEMAKER_SUBNETS and SAGEMAKER_SECURITY_GROUPS."),
    (r"instance type|InstanceType", "Check SAGEMAKER_INSTANCE_TYPE: not every region has every one."),
    (r"bucket|S3", "Check SAGEMAKER_BUCKET, its region, and what SAGEMAKER_ROLE_ARN may do with it."),
)
_OF_THE_CONTAINER = "AlgorithmError"
"""So SageMaker begins a reason that the container gave: text of ours, in which "manifest" or "bucket" mean nothing of AWS's."""
_LONGEST_REASON = 1024
"""As long as SageMaker lets one be."""
_OF_A_JOB = (
    (
        r"CapacityError|compute capacity",  # CUDA speaks of a GPU's "total capacity" where its memory ends
        "There are no such machines at the moment: run the same command later, or set SAGEMAKER_INSTANCE_TYPE or "
        "SAGEMAKER_REGION to another.",
    ),
    (r"needs about .*GiB|out of memory|OutOfMemory|exit code:? 137", "Set SAGEMAKER_INSTANCE_TYPE to a larger machine, or turn "
     "the knobs of memory in the run's YAML (batch_size, max_length, gradient_checkpointing, method: qlora)."),
    (r"disk is full|No space left", "Raise SAGEMAKER_VOLUME_GB."),
    (r"exec format|tini|no such file|not found in \$PATH", "Build the image anew from this project's Dockerfile "
     "(SAGEMAKER_IMAGE), for linux/amd64."),
    (r"Permission denied", "Name an image of the target training (./poe build-docker-image --target training): SageMaker's "
     "folders belong to root, and that one runs as root."),
    (r"InternalServerError", "It is AWS's: run the same command again."),
)  # fmt: skip


@contextmanager
def explain_failures(doing: str) -> Iterator[None]:
    """Raise what boto3 raises in our words.

    Raises:
        ConfigurationError: credentials, region, role, bucket or image are missing or wrong.
        TrainingError: AWS refuses for another reason, or cannot be reached; or the disk is full.
    """
    unreachable = "Check the network, AWS_PROFILE and SAGEMAKER_REGION; a job that runs goes on, and the same command follows it."
    try:
        with explain_aws_errors(doing, _refused, TrainingError, unreachable):
            yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise TrainingError(
            f"{doing} failed: the disk is full. Make room, and run the same command again; nothing is trained twice."
        ) from error


def _refused(doing: str, told: Mapping[str, Any], _: str) -> ConfigurationError | TrainingError:
    code, message = str(told.get("Code", "")), mask_ids(str(told.get("Message", "")))
    problem = f"{doing} was refused ({code}): {message}"
    if code == "ResourceLimitExceeded":
        return TrainingError(
            f"{problem} Ask for more under Service Quotas (SageMaker, 'for training job usage', or 'for spot training job usage' "
            "with SAGEMAKER_SPOT), or set SAGEMAKER_INSTANCE_TYPE to one that your account has."
        )
    if code == "NoSuchBucket":
        return ConfigurationError(
            f"{problem} Create the bucket in the job's region, or correct SAGEMAKER_BUCKET."
        )
    if code in REFUSED_KEYS:
        return ConfigurationError(
            f"{problem} Check AWS's credentials of this process, and this machine's clock."
        )
    if code in DENIED:
        return ConfigurationError(
            f"{problem} Allow it to whoever runs this command: sagemaker:CreateTrainingJob, DescribeTrainingJob, "
            "StopTrainingJob, AddTags; iam:PassRole for SAGEMAKER_ROLE_ARN; s3:ListBucket, GetObject and PutObject on "
            "SAGEMAKER_BUCKET."
        )
    advice = next((advice for pattern, advice in _BY_MESSAGE if re.search(pattern, message)), "")
    return TrainingError(f"{problem} {advice}".rstrip())


def explain_failure(name: str, reason: str) -> TrainingError:
    """Return a job that ended in failure, with the setting to change where the reason tells it."""
    known = _OF_A_JOB if reason.startswith(_OF_THE_CONTAINER) else (*_OF_A_JOB, *_BY_MESSAGE)
    advice = next((advice for pattern, advice in known if re.search(pattern, reason)), "")
    told = mask_ids(reason, _LONGEST_REASON) or "AWS gives no reason"
    return TrainingError(
        f"The training job {name} failed: {told}. {advice}".rstrip()
        + " The same command starts it again, from its last checkpoint."
    )


def explain_stop(name: str, how: str) -> TrainingError:
    """Return a job that was ended before it was done."""
    knob = {
        "MaxRuntimeExceeded": "it ran as long as SAGEMAKER_MAX_HOURS allows; raise that",
        "MaxWaitTimeExceeded": "no spot machine was to be had within SAGEMAKER_MAX_WAIT_HOURS; raise that, or set "
        "SAGEMAKER_SPOT=false",
    }.get(how, "somebody stopped it")
    return TrainingError(
        f"The training job {name} was ended before it was done: {knob}. The same command goes on from its last checkpoint."
    )
