"""boto3's clients of one account and region, opened when they are first used."""

from typing import Any

from llm_engineering.infrastructure.aws.faults import explain_failures
from llm_engineering.infrastructure.shared.aws import require_boto3


class AwsClients:
    """Clients by service. The account is that of AWS's own configuration (environment, profile, role).

    Throttled calls and broken connections are tried again, ``attempts`` times in all.

    Args:
        region: None: as AWS is configured.
        session: a boto3 session in place of a new one.
    """

    def __init__(self, region: str | None = None, session: Any = None, attempts: int = 5) -> None:
        self._region = region
        self._session = session
        self._attempts = attempts
        self._clients: dict[str, Any] = {}
        self._account: str | None = None

    def get(self, service: str) -> Any:
        """Return a service's client: ``sagemaker``, ``s3``, ``application-autoscaling``.

        Raises:
            ConfigurationError: no region is known.
            MissingDependencyError: boto3 is not installed.
        """
        if service not in self._clients:
            require_boto3("Working with AWS")
            import boto3
            from botocore.config import Config

            self._session = self._session or boto3.Session(region_name=self._region)
            config = Config(
                retries={"mode": "standard", "total_max_attempts": self._attempts},
                connect_timeout=10,
            )
            with explain_failures(f"Opening a connection to {service}"):
                self._clients[service] = self._session.client(service, config=config)
        return self._clients[service]

    @property
    def region(self) -> str:
        return str(self.get("sts").meta.region_name)

    @property
    def account(self) -> str:
        """The account's number, asked for once."""
        if self._account is None:
            client = self.get("sts")
            with explain_failures("Asking AWS whose credentials these are"):
                self._account = str(client.get_caller_identity()["Account"])
        return self._account

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()


def list_instance_types() -> frozenset[str]:
    """Return the types of machines that serve models, as the installed botocore knows them."""
    require_boto3("Working with AWS")
    from botocore.loaders import Loader

    shapes = Loader().load_service_model("sagemaker", "service-2")["shapes"]
    return frozenset(shapes["ProductionVariantInstanceType"]["enum"])
