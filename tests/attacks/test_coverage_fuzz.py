"""Coverage-guided fuzzing of four readers, where atheris is installed; ``coverage_fuzz.py`` says how to look longer."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = os.environ.get("FUZZ_SECONDS", "30")


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("target", ["chunker", "stream", "globs", "table"])
def test_no_input_that_fuzzing_finds_breaks_a_reader(tmp_path: Path, target: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.attacks.coverage_fuzz", target, SECONDS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-2_000:] + ran.stderr[-4_000:]
    assert not list(tmp_path.glob("crash-*"))
