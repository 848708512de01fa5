"""Customer service on AWS Lambda: set the function's handler to ``tools.aws_lambda.handle``.

``TWIN_CONFIG`` names the service's configuration (default ``configs/support.yaml``). The service is put together at the first
event, and stays for those that follow in the same container. It is reached under a name of AWS, so callers need an API key.
"""

import asyncio
import atexit
import os
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from llm_engineering.application.inference.pipeline import InferenceConfig
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.bootstrap.service import build_lambda_handler, build_service_app
from llm_engineering.settings import load_settings
from tools.run_config import read_service_config
from tools.serve import read_specs

_OPEN = ExitStack()
"""Holds what was opened for as long as the container lives."""


def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer an event of API Gateway or of a function URL."""
    return _make_handler()(event, context)


@cache
def _make_handler() -> Any:
    settings = load_settings()
    start_logging(settings)
    config = read_service_config(Path(os.environ.get("TWIN_CONFIG", "configs/support.yaml")), InferenceConfig)
    atexit.register(_OPEN.close)
    resources = _OPEN.enter_context(open_resources(settings))
    service = build_service_app(resources, config, analyses=read_specs(config))
    # Lambda has no start of its own: what a server does in its lifespan is done here, in the loop that serves the events.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(service.health.warm_up())
    return build_lambda_handler(service)
