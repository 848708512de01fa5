"""What a container's health check asks."""

import pytest

from tools.container_health import find_health_url

START = ["tini", "--", "python", "-m", "poethepoet", "--executor", "simple"]


@pytest.mark.parametrize(
    ("command", "environment", "url"),
    [
        (["run-inference-ml-service"], {}, "http://127.0.0.1:8088/health/ready"),
        (["run-inference-ml-service"], {"SERVICE_PORT": "80"}, "http://127.0.0.1:80/health/ready"),
        (
            ["run-inference-ml-service", "--port", "9"],
            {"SERVICE_PORT": "80"},
            "http://127.0.0.1:9/health/ready",
        ),
        (["run-inference-ml-service", "--port=9"], {}, "http://127.0.0.1:9/health/ready"),
        (["run-llm-server", "--host", "0.0.0.0"], {"SERVICE_PORT": "80"}, "http://127.0.0.1:8089/health"),
        (["run-chat-page", ""], {}, "http://127.0.0.1:8090/health/ready"),
        (["run-digital-data-etl"], {}, None),
        (["--help"], {}, None),
        ([], {}, None),
    ],
)
def test_servers_are_asked_where_they_listen_and_nothing_else_is(
    command: list[str], environment: dict[str, str], url: str | None
) -> None:
    assert find_health_url([*START, *command], environment) == url
