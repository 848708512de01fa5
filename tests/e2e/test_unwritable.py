"""A checkout that cannot be written, and a user without a home: what works does, and the rest is told in a line."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.durations import allow
from tests.services import free_port

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("tools", "llm_engineering", "pipelines", "steps", "configs", "pyproject.toml")
# Root writes everywhere, unless it gives that up.
AS_USER = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override") if os.getuid() == 0 else ()

pytestmark = pytest.mark.skipif(
    bool(AS_USER) and shutil.which("setpriv") is None, reason="root without setpriv can write everywhere"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "checkout"
    folder.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


def run(checkout: Path, module: str, *arguments: str, **environment: str) -> tuple[int, str]:
    given = {name: value for name, value in os.environ.items() if name not in ("HOME", "LOCAL_DATA_DIR")}
    result = subprocess.run(
        [*AS_USER, sys.executable, "-m", module, *arguments],
        cwd=checkout,
        env={
            **given,
            "MODELS_DIR": os.environ.get("MODELS_DIR", str(ROOT / "models")),
            "LLM_MODEL": "SmolLM2-135M-Instruct",
            "DATABASE_URI": f"mongodb://127.0.0.1:{free_port()}",
            "LOCAL_MONGO_PORT": str(free_port()),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=allow(60),
        check=False,
    )
    return result.returncode, result.stdout


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("tools.services", ("up",)),
        ("tools.api_keys", ("create", "laptop")),
        ("tools.init", ("--author", "Ada Winter", "--link", "configs", "--yes", "--small")),
    ],
)
def test_what_cannot_be_written_is_told_in_a_line(
    checkout: Path, module: str, arguments: tuple[str, ...]
) -> None:
    code, output = run(checkout, module, *arguments)
    assert code == 1
    assert "Traceback" not in output
    assert "Permission denied" in output


def test_what_only_looks_works(checkout: Path) -> None:
    code, output = run(checkout, "tools.doctor", "--quick", "--json")
    assert code == 0, output
    code, output = run(checkout, "tools.ask", "What is RRF?")
    assert code == 1
    assert "Traceback" not in output
    assert "There is no index" in output


@pytest.mark.slow
def test_with_data_elsewhere_everything_works(checkout: Path, tmp_path: Path) -> None:
    port = str(free_port())
    elsewhere = {
        "LOCAL_DATA_DIR": str(tmp_path / "data"),
        "VECTOR_INDEX_PATH": str(tmp_path / "index"),
        "ZENML_CONFIG_PATH": str(tmp_path / "zenml"),
        "SERVICE_KEYS_FILE": str(tmp_path / "keys.json"),
        "LOCAL_MONGO_PORT": port,
        "DATABASE_URI": f"mongodb://127.0.0.1:{port}",
        "LLM_KEEP_WARM": "0",
    }
    note = tmp_path / "note.md"
    note.write_text(
        "# Sundials\n\nThe sundial of our town shows the true noon. The tower clock follows it.\n"
    )
    code, output = run(checkout, "tools.services", "up", **elsewhere)
    try:
        assert code == 0, output
        collect = ("end-to-end-data", "--author", "Ada Winter", "--link", str(note))
        code, output = run(checkout, "tools.run", *collect, **elsewhere)
        assert code == 0, output
        code, output = run(checkout, "tools.ask", "What does the sundial of our town show?", **elsewhere)
        assert code == 0, output
        assert "true noon" in output
    finally:
        run(checkout, "tools.services", "down", **elsewhere)
