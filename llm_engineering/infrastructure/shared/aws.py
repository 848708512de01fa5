"""What adapters of Amazon's services say alike."""

import re

_ACCOUNT = re.compile(r"\b\d{12}\b")
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")
_LONGEST = 400

NO_CREDENTIALS = (
    "AWS has no complete credentials for this process. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run it "
    "with a role."
)


def no_region(variable: str) -> str:
    """What is told where no region is known; ``variable``: the setting that names one."""
    return f"no AWS region is known. Set {variable} or AWS_DEFAULT_REGION."  # boto3 does not read AWS_REGION


def mask_ids(text: str, longest: int = _LONGEST) -> str:
    """Without account numbers and key ids, and not longer than an error message should be."""
    return _KEY_ID.sub("(key)", _ACCOUNT.sub("(account)", text))[:longest]
