"""The service behind AWS Lambda and API Gateway."""

from collections.abc import Callable
from typing import Any

from llm_engineering.domain.errors import MissingDependencyError

Handler = Callable[[dict[str, Any], Any], dict[str, Any]]


def make_lambda_handler(app: Any) -> Handler:
    """Return what Lambda calls with an event; requests and responses are those of the service over HTTP.

    Args:
        app: the service, as ASGI.

    Raises:
        MissingDependencyError: mangum is not installed.
    """
    try:
        from mangum import Mangum
    except ImportError as error:
        raise MissingDependencyError("mangum", "aws", "Serving from AWS Lambda") from error
    handler: Handler = Mangum(app, lifespan="off")
    return handler
