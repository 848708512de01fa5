"""Looks at services elsewhere that cost nothing: whether they are there, not what they can do."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError, ModelServiceError

if TYPE_CHECKING:
    import httpx

_NOT_IMPLEMENTED = 501
"""Said by servers that know no GET at all: somebody is there."""
_SERVING = frozenset({"InService", "Updating", "SystemUpdating", "RollingBack"})
"""States in which a SageMaker endpoint answers: it is changed without a gap."""


class HttpCheck:
    """Whether a service answers HTTP at an address, at no cost: any answer will do but a refused key or a failure.

    Args:
        variable: the setting that holds the key, for the message when it is refused.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], *, what: str, variable: str, timeout_seconds: float = 2.0
    ) -> None:
        self._url = url
        self._headers = dict(headers)
        self._what = what
        self._variable = variable
        self._timeout = timeout_seconds
        self._client: httpx.AsyncClient | None = None

    async def __call__(self) -> str | None:
        """Ask once.

        Raises:
            ModelServiceError: nothing answers, or it says that it fails.
            ConfigurationError: it refuses the key.
        """
        import httpx

        self._client = self._client or httpx.AsyncClient(timeout=self._timeout, headers=self._headers)
        try:
            response = await self._client.get(self._url)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ModelServiceError(
                f"{self._what} does not answer ({type(error).__name__}). Check its address, and that it runs."
            ) from None
        if response.status_code in (401, 403):
            raise ConfigurationError(f"{self._what} refuses the key. Check {self._variable}.")
        if response.status_code >= 500 and response.status_code != _NOT_IMPLEMENTED:
            raise ModelServiceError(f"{self._what} answers with status {response.status_code}.")
        return None

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.aclose()
        self._client = None


class SageMakerCheck:
    """Whether a SageMaker endpoint is in service, as AWS says; asking the model itself would cost.

    A role that may invoke the endpoint but not describe it is common: then the endpoint counts as there, and the detail
    says that it could not be looked at.
    """

    def __init__(self, endpoint: str, region: str | None, timeout_seconds: float = 2.0) -> None:
        self._endpoint = endpoint
        self._region = region
        self._timeout = timeout_seconds
        self._client: Any = None

    def __call__(self) -> str | None:
        """Ask once. Blocking.

        Raises:
            ModelServiceError: the endpoint is not there or not in service, or AWS cannot be asked.
            MissingDependencyError: boto3 is not installed.
        """
        try:
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise MissingDependencyError("boto3", "aws", "A language model on SageMaker") from error
        try:
            found = self._opened().describe_endpoint(EndpointName=self._endpoint)
        except ClientError as error:
            return self._refused(error.response.get("Error", {}).get("Code", ""))
        except BotoCoreError as error:
            raise ModelServiceError(
                f"AWS cannot be asked about the endpoint {self._endpoint} ({type(error).__name__}). "
                "Check AWS's credentials, LLM_REGION, and the network."
            ) from None
        status = str(found["EndpointStatus"])
        if status not in _SERVING:
            raise ModelServiceError(f"The SageMaker endpoint {self._endpoint} is {status}, not InService.")
        return status

    def _refused(self, code: str) -> str:
        if "AccessDenied" in code:
            return "not looked at: the role lacks sagemaker:DescribeEndpoint"
        raise ModelServiceError(
            f"AWS knows no endpoint {self._endpoint}, or refuses to tell ({code}). Check LLM_ENDPOINT and LLM_REGION."
        )

    def _opened(self) -> Any:
        if self._client is None:
            import boto3
            from botocore.config import Config

            config = Config(
                connect_timeout=self._timeout, read_timeout=self._timeout, retries={"total_max_attempts": 1}
            )
            self._client = boto3.Session(region_name=self._region).client("sagemaker", config=config)
        return self._client

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
        self._client = None
