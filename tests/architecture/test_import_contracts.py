"""The direction of dependencies: the contracts of ``pyproject.toml``, and what a list of forbidden names cannot say."""

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]

ALLOWED_OUTSIDE = {
    "llm_engineering.domain": {"pydantic"},
    # Libraries that compute, or know calendars and languages, and hold no connection, file or model.
    "llm_engineering.application": {
        "pydantic",
        "pydantic_core",
        "loguru",
        "numpy",
        "jinja2",
        "markupsafe",
        "babel",
        "dateutil",
    },
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Every import of the package, those inside functions too."""
    return grimp.build_graph("llm_engineering", include_external_packages=True, cache_dir=None)


def test_the_import_contracts_hold() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


@pytest.mark.parametrize(("package", "allowed"), ALLOWED_OUTSIDE.items())
def test_the_inner_layers_import_only_what_is_allowed(
    graph: grimp.ImportGraph, package: str, allowed: set[str]
) -> None:
    ours = {package, *graph.find_descendants(package)}
    outside = {
        (module, imported)
        for module in ours
        for imported in graph.find_modules_directly_imported_by(module)
        if not imported.startswith("llm_engineering")
    }
    unexpected = {
        (module, name)
        for module, name in outside
        if name not in allowed and name.partition(".")[0] not in sys.stdlib_module_names
    }
    assert not unexpected, f"{package} may import {sorted(allowed)} and the standard library"


def test_a_contract_fails_on_an_import_inside_a_function(tmp_path: Path) -> None:
    """The contracts see what a reader overlooks: proved once on a package made to break one."""
    domain = tmp_path / "llm_engineering" / "domain"
    domain.mkdir(parents=True)
    (domain.parent / "__init__.py").touch()
    (domain / "__init__.py").write_text(
        "def f():\n    import pymongo\n    return pymongo\n", encoding="utf-8"
    )
    (tmp_path / "contracts.toml").write_text(
        "[tool.importlinter]\n"
        'root_package = "llm_engineering"\n'
        "include_external_packages = true\n"
        "[[tool.importlinter.contracts]]\n"
        'name = "no SDK"\n'
        'type = "forbidden"\n'
        'source_modules = ["llm_engineering.domain"]\n'
        'forbidden_modules = ["pymongo"]\n',
        encoding="utf-8",
    )
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as c; c()",
            "--config=contracts.toml",
            "--no-cache",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "llm_engineering.domain -> pymongo (l.2)" in run.stdout
