"""Serves the chat page alone: ``./poe run-chat-page [--host … --port …]``.

It asks the address that it was loaded from, so a proxy or an Ingress puts it and the inference service under one: ``/`` and
``/page`` come here, all else goes there (``infra/kubernetes/base/service.yaml``).
"""

from collections.abc import Sequence

from loguru import logger

from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.service import build_chat_page, open_listener
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, run

PORT = 8090
SHUTDOWN_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("run-chat-page", __doc__)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all (default %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one (default %(default)s)")
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65535:
        raise ConfigurationError(f"--port must lie between 0 and 65535, got {options.port}.")
    settings = load_settings()
    start_logging(settings)
    with open_listener(options.host, options.port) as listener:

        def introduce() -> None:
            logger.info("The chat page is on {}/.", listener.url)
            if settings.log.format == "human":
                console.print(f"Chat page: {listener.url}/  [dim]Ctrl-C stops it[/]")

        listener.serve(build_chat_page(), shutdown_seconds=SHUTDOWN_SECONDS, started=introduce)
    return 0


if __name__ == "__main__":
    run(main)
