"""``poe run-chat-page``: the page in a process of its own, without models, keys or a database."""

import os
import re
import signal
import subprocess
import sys

import httpx


def test_the_page_is_served_alone_and_ends_in_peace() -> None:
    command = [sys.executable, "-m", "tools.chat_page", "--port", "0"]
    environment = {**os.environ, "LOG_FORMAT": "human", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        told = next(line for line in process.stdout if "Ctrl-C" in line)
        found = re.search(r"http://\S+?:\d+", told)
        assert found is not None
        with httpx.Client(base_url=found[0]) as client:
            page = client.get("/")
            assert page.status_code == 200
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
            for name in re.findall(r'"/(page/[\w.-]+)"', page.text):
                assert client.get(f"/{name}").status_code == 200
            assert client.get("/health/live").status_code == client.get("/health/ready").status_code == 200
            assert client.post("/rag", json={"query": "?"}).status_code == 404
            assert client.get("/metrics").status_code == client.get("/openapi.json").status_code == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.stdout.close()
