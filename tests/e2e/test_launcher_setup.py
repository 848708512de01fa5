"""What the launcher does when set-ups collide or die: its own code for real, with a stand-in for its private Poetry.

The stand-in installs this environment's packages by a path file and takes a second for it, so that a test can meet it
in the middle. The real set-up is run by every fresh clone in CI.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each makes a virtual environment

LAUNCHER = Path(__file__).parents[2] / "poe"
STAND_IN = """\
#!/bin/sh
# Stands in for the private environment's python: `-m poetry ... install ...` and what the launcher asks pip.
case "$*" in
  *"-m pip config get"*) exit 1 ;;
  *PyPI.simple_url*) echo "https://index.example/simple" ;;
  *" install"*)
    echo "install $POETRY_PYPI_MIRROR_URL $*" >>"{root}/calls"
    echo "Package operations: 1 install, 0 updates, 0 removals"
    sleep {seconds}
    if [ -e "{root}/broken" ]; then echo "No route to the index"; exit 3; fi
    echo "{packages}" >"{root}/.venv/lib/{version}/site-packages/stand-in.pth"
    ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / ".poetry" / "venv" / "bin").mkdir(parents=True)
    shutil.copy(LAUNCHER, root / "poe")
    task = "[tool.poe.tasks.show]\ncmd = \"python -c 'print(1234)'\"\n[tool.poetry.group.training]\n"
    (root / "pyproject.toml").write_text(task, encoding="utf-8")
    (root / "poetry.lock").write_text("", encoding="utf-8")
    stand_in(root, seconds=1)
    versions = re.findall(
        r"^(?:POETRY|MIRROR_PLUGIN|POE)_VERSION=(.+)$", LAUNCHER.read_text(encoding="utf-8"), re.M
    )
    (root / ".poetry" / "ready").write_text(" ".join([*versions, base_python(), str(root)]), encoding="utf-8")
    return root


def base_python() -> str:
    """The interpreter behind this environment, by the name under which it knows itself."""
    python = str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    asked = subprocess.run(
        [python, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True
    )
    return asked.stdout.strip()


def stand_in(root: Path, seconds: float) -> None:
    path = root / ".poetry" / "venv" / "bin" / "python"
    path.write_text(
        STAND_IN.format(
            root=root,
            seconds=seconds,
            packages=sysconfig.get_paths()["purelib"],
            version=f"python3.{sys.version_info.minor}",
        ),
        encoding="utf-8",
    )
    path.chmod(0o755)


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    left_out = {"VIRTUAL_ENV", "POETRY_PYPI_MIRROR_URL", "PIP_INDEX_URL"}
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    return subprocess.Popen(
        [root / "poe", *arguments],
        env=environment | {"POE_PYTHON": base_python()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def calls(root: Path) -> list[str]:
    path = root / "calls"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def wait_for_install(root: Path, times: int = 1) -> None:
    deadline = time.monotonic() + 30
    while len(calls(root)) < times:
        assert time.monotonic() < deadline, "poetry install was never called"
        time.sleep(0.02)


def test_two_starts_at_once_set_up_once_and_both_run_their_task(project: Path) -> None:
    first, second = start(project, "show"), start(project, "show")
    results = [finish(first), finish(second)]
    assert [(status, output) for status, output, _ in results] == [(0, "1234\n"), (0, "1234\n")], results
    assert len(calls(project)) == 1
    assert sum("waiting for it" in errors for _, _, errors in results) == 1


def test_a_set_up_that_was_killed_is_begun_again_from_nothing(project: Path) -> None:
    killed = start(project, "show")
    wait_for_install(project)
    (project / ".venv" / "half-a-package").touch()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()

    status, output, errors = finish(start(project, "show"))
    assert (status, output) == (0, "1234\n"), errors
    assert "waiting for it" not in errors, "the dead set-up must not hold the lock"
    assert not (project / ".venv" / "half-a-package").exists()
    assert len(calls(project)) == 2


def test_a_second_start_sets_nothing_up(project: Path) -> None:
    assert finish(start(project, "show"))[0] == 0
    status, output, errors = finish(start(project, "show"))
    assert (status, output) == (0, "1234\n")
    assert "Setting up" not in errors
    assert len(calls(project)) == 1


def test_poetry_uses_the_index_that_pip_uses(project: Path) -> None:
    finish(start(project, "show"))
    assert "install https://index.example/simple/ " in calls(project)[0]


def test_an_optional_group_is_remembered_for_the_next_set_up(project: Path) -> None:
    assert finish(start(project, "setup", "--with", "training"))[0] == 0
    (project / "poetry.lock").write_text("changed", encoding="utf-8")
    assert finish(start(project, "show"))[0] == 0
    assert [call.endswith(" install --with training") for call in calls(project)] == [True, True]


def test_an_install_that_fails_says_why_and_the_next_start_goes_on(project: Path) -> None:
    (project / "broken").touch()
    status, output, errors = finish(start(project, "show"))
    assert (status, output) == (1, "")
    assert "No route to the index" in errors
    assert "poetry install failed" in errors

    kept = project / ".venv" / "kept"
    kept.touch()
    (project / "broken").unlink()
    assert finish(start(project, "show"))[:2] == (0, "1234\n")
    assert kept.exists(), "what Poetry had installed before it failed is not thrown away"
    assert len(calls(project)) == 2
