"""What adapters of Amazon's services say alike."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError, TwinError

_ACCOUNT = re.compile(r"\b\d{12}\b")
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")
_LONGEST = 400
_ABSENT = re.compile(r"not found|could not find|does not exist|no scal\w+ \w+ found", re.I)
_SECRET_NAME = re.compile(
    r"TOKEN(?!IZER|S$)|SECRET|PASSWORD|PASSWD|CREDENTIAL|(?:^|_)(?:API_?)?KEY(?:_ID)?$", re.I
)
_SECRET_VALUE = re.compile(r"://[^/@\s]*:[^/@\s]+@")
"""An address with a password."""

NO_CREDENTIALS = (
    "AWS has no complete credentials for this process. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run it "
    "with a role."
)
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403")
"""Names that AWS gives a missing right."""
REFUSED_KEYS = (
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSignatureException", "ExpiredToken",
    "ExpiredTokenException", "UnrecognizedClientException", "InvalidClientTokenId",
)  # fmt: skip
"""Names that AWS gives credentials which it does not take."""


def no_region(variable: str) -> str:
    """What is told where no region is known; ``variable``: the setting that names one."""
    return f"no AWS region is known. Set {variable} or AWS_DEFAULT_REGION."  # boto3 does not read AWS_REGION


def mask_ids(text: str, longest: int = _LONGEST) -> str:
    """Without account numbers and key ids, and not longer than an error message should be."""
    return _KEY_ID.sub("(key)", _ACCOUNT.sub("(account)", text))[:longest]


def code_of(error: Exception) -> str:
    """Return AWS's name of an error."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def is_absent(error: Exception) -> bool:
    """Return whether a refusal says that there is no such thing."""
    code = code_of(error)
    message = str(getattr(error, "response", {}).get("Error", {}).get("Message", ""))
    return code in (
        "ResourceNotFound",
        "NoSuchEntity",
        "ObjectNotFoundException",
        "ResourceNotFoundException",
    ) or (code.startswith("Validation") and bool(_ABSENT.search(message)))


def call_unless(refused: Callable[[Exception], bool], call: Callable[..., Any], **arguments: Any) -> Any:
    """Return what a call of boto3 answers; None where AWS refuses it for a reason that is expected.

    Args:
        refused: whether a refusal is the expected one, such as :func:`is_absent`.
    """
    from botocore.exceptions import ClientError

    try:
        return call(**arguments)
    except ClientError as error:
        if not refused(error):
            raise
        return None


def require_boto3(purpose: str) -> None:
    """Say early which group brings boto3.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import boto3  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("boto3", "aws", purpose) from error


@contextmanager
def explain_aws_errors(
    doing: str,
    refuse: Callable[[str, Mapping[str, Any], str], TwinError],
    failure: type[TwinError],
    advice: str,
) -> Iterator[None]:
    """Raise what boto3 raises in our words.

    Args:
        doing: what is done, as the beginning of a sentence: ``Starting the training job twin-1``.
        refuse: makes an error of what AWS answered: ``doing``, its code and message, and the operation.
        failure: raised where AWS cannot be reached.
        advice: what to do then.

    Raises:
        ConfigurationError: credentials or region are missing, or a parameter is not of the kind that AWS takes.
    """
    from boto3.exceptions import S3UploadFailedError
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        raise refuse(doing, error.response.get("Error", {}), error.operation_name) from error
    except S3UploadFailedError as error:  # its cause is told in its text alone
        code = re.search(r"\((\w+)\) when calling", str(error))
        told = {"Code": code[1] if code else "", "Message": str(error)}
        raise refuse(doing, told, "PutObject") from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise ConfigurationError(f"{doing} is not possible: {NO_CREDENTIALS}") from error
    except exceptions.NoRegionError as error:
        raise ConfigurationError(f"{doing} is not possible: {no_region('SAGEMAKER_REGION')}") from error
    except exceptions.ParamValidationError as error:
        raise ConfigurationError(
            f"{doing} is not possible with these settings: {mask_ids(str(error))}"
        ) from error
    except exceptions.BotoCoreError as error:
        raise failure(f"{doing} failed: AWS cannot be reached ({mask_ids(str(error))}). {advice}") from error


def refuse_secrets(environment: Mapping[str, str], where: str, instead: str = "") -> None:
    """Refuse a container's environment that holds what is none of everybody's business.

    Args:
        where: the setting or key that it comes from.
        instead: the setting that names a secret of AWS Secrets Manager; empty: the container cannot read one.

    Raises:
        ConfigurationError: names the variables, never their values.
    """
    secrets = sorted(
        name
        for name, value in environment.items()
        if _SECRET_NAME.search(name) or _SECRET_VALUE.search(value)
    )
    if not secrets:
        return
    way = (
        f" Put such values into a secret of AWS Secrets Manager, as a JSON object of names and values, and name that: {instead}."
        if instead
        else " Leave them out; a model that needs a token to be fetched is put into S3 first (model.s3)."
    )
    raise ConfigurationError(
        f"{where} holds {', '.join(secrets)}: a container's environment is shown in the clear to all who may describe it.{way}"
    )
