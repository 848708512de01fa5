"""``poe push-prompts-to-opik``, in a process of its own, against a server that speaks Opik's REST API."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from llm_engineering.application.llm.prompts import list_prompts
from tests.fakes.opik_server import OpikServer


def push(**variables: str) -> subprocess.CompletedProcess[str]:
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("TRACING_", "OPIK_", "POE_"))}
    command = [sys.executable, "-m", "tools.push", "prompts"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**clean, **variables}
    )


@pytest.mark.slow
@pytest.mark.skipif(find_spec("opik") is None, reason="needs the group observability")
def test_every_version_is_pushed_once() -> None:
    with OpikServer() as server:
        first, second = (push(TRACING_URL=server.base_url) for _ in range(2))
        pushed = {
            (name, v["metadata"]["hash"]) for name, versions in server.prompts.items() for v in versions
        }
        count = sum(len(versions) for versions in server.prompts.values())
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert pushed == {(template.name, template.hash) for template in list_prompts()}
    assert count == len(list_prompts())
    assert f"0 of {len(list_prompts())} prompt versions were new" in second.stdout


def test_without_a_library_the_settings_to_make_are_named() -> None:
    done = push()
    assert done.returncode == 1
    assert "TRACING_KIND=opik" in done.stderr
    assert "Traceback" not in done.stderr
