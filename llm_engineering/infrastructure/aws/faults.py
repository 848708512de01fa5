"""What AWS says when an endpoint, a role or a policy cannot be made, with the setting to change."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from llm_engineering.domain.errors import ConfigurationError, DeploymentError
from llm_engineering.infrastructure.shared.aws import DENIED, REFUSED_KEYS, explain_aws_errors, mask_ids

QUOTAS = "https://console.aws.amazon.com/servicequotas/home/services/sagemaker/quotas"
"""Where limits are shown, and more can be asked for."""
_ACTION = re.compile(r"not authorized to perform:? ([\w-]+:\w+)")
_ADVICE = (
    (
        r"repository|image|ECR|manifest",
        "Check container.image: pushed to ECR in this region, and readable to SAGEMAKER_ROLE_ARN.",
    ),
    (r"assume|RoleArn|role arn", "Check SAGEMAKER_ROLE_ARN: a role that sagemaker.amazonaws.com may assume "
     "(create-sagemaker-execution-role makes one)."),
    (r"capacity", "There are no such machines at the moment: run the same command later, or change instance.type or the region."),
    (r"out of memory|OutOfMemory|CUDA out|exit code:? 137", "Give the model a larger machine (instance.type), lower "
     "limits.max_batch_tokens, or set container.quantization."),
    (r"ping|health check", "The container did not become healthy: look at its log; raise container.startup_minutes "
     "where it was still loading."),
    (r"S3|model data|ModelData", "Check that SAGEMAKER_ROLE_ARN may read the model's files in SAGEMAKER_BUCKET."),
    (r"alarm", "The new version set off an alarm, so the old one serves on. Look at its log, or at rollout.max_errors and "
     "rollout.max_latency_seconds."),
)  # fmt: skip


@contextmanager
def explain_failures(doing: str) -> Iterator[None]:
    """Raise what boto3 raises in our words.

    Raises:
        ConfigurationError: credentials, region, rights or parameters are missing or wrong.
        DeploymentError: AWS refuses for another reason, or cannot be reached.
    """
    unreachable = "Check the network, AWS_PROFILE and the region, and run the same command again: it goes on where it was."
    with explain_aws_errors(doing, _refuse, DeploymentError, unreachable):
        yield


def _refuse(doing: str, told: Mapping[str, Any], operation: str) -> ConfigurationError | DeploymentError:
    code, message = str(told.get("Code", "")), mask_ids(str(told.get("Message", "")))
    problem = f"{doing} was refused ({code}): {message}"
    if code in ("ResourceLimitExceeded", "LimitExceeded", "LimitExceededException"):
        return DeploymentError(f"{problem} Ask for more, or take another instance.type: {QUOTAS}")
    if code in REFUSED_KEYS:
        return ConfigurationError(
            f"{problem} Check AWS's credentials of this process (a token that has expired is asked for anew: aws sso login), and "
            "this machine's clock."
        )
    if code in DENIED:
        found = _ACTION.search(message)
        right = found[1] if found else operation
        return ConfigurationError(
            f"{problem} The right {right} is missing: the policy infra/aws/policies/deployer.json has all that are needed "
            "(create-sagemaker-role)."
        )
    return DeploymentError(f"{problem} {advise(message)}".rstrip())


def advise(reason: str) -> str:
    """Return the setting to change for a reason that AWS gives; empty where none is known."""
    return next((advice for pattern, advice in _ADVICE if re.search(pattern, reason, re.I)), "")
