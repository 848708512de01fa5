"""Whether the server in this container takes requests: ``python -m tools.container_health``, asked by the image's health check.

Exit code 0 for yes, and for a container that runs no server. It imports nothing but the standard library, since it is started
every few seconds.
"""

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

SERVERS = {
    "run-inference-ml-service": (8088, "/health/ready"),
    "run-llm-server": (8089, "/health"),
    "run-chat-page": (8090, "/health/ready"),
}
"""Task → its default port, and the path that tells its readiness."""
SECONDS = 4.0


def find_health_url(command: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Return what to ask about the server that a command line starts; None: it starts none."""
    task = next((word for word in command if word in SERVERS), None)
    if task is None:
        return None
    port, path = SERVERS[task]
    chosen = environment.get("SERVICE_PORT", str(port)) if task == "run-inference-ml-service" else str(port)
    words = [
        part for word in command for part in (word.split("=", 1) if word.startswith("--port=") else [word])
    ]
    if "--port" in words[:-1]:
        chosen = words[words.index("--port") + 1]
    return f"http://127.0.0.1:{chosen}{path}"


def main() -> int:
    command = Path("/proc/1/cmdline").read_bytes().decode(errors="replace").split("\0")
    url = find_health_url(command, os.environ)
    if url is None:
        return 0
    try:
        with urllib.request.urlopen(url, timeout=SECONDS):
            return 0
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
