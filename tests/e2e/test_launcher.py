"""The launcher ``./poe``, in a project of its own whose environment is ready (set-up itself: every fresh clone in CI)."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "poe"
PROJECT = """\
[tool.poe]
verbosity = -1

[tool.poe.groups.1-first]
heading = "First"

[tool.poe.groups.1-first.tasks.show]
help = "Print the arguments and where the task runs"
cmd = "python show.py"

[tool.poe.tasks.run-evaluation]
help = "Measure"
cmd = "python show.py"

[tool.poetry.group.training]
optional = true
"""
SHOW = """\
import json, os, sys
print(json.dumps({"arguments": sys.argv[1:], "folder": os.getcwd(), "python": sys.prefix, "called": os.environ["POE_COMMAND"]}))
"""
PROGRAMS = ("dirname", "readlink", "cat", "cksum", "date", "mkdir", "env")


def stamp(root: Path) -> str:
    """What a finished set-up leaves in ``.venv``: the place, and the checksums of what the environment is made from."""
    sums = subprocess.run(
        ["cksum", "pyproject.toml", "poetry.lock", ".venv/pyvenv.cfg"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return f"{root}\n{sums.stdout}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in a folder whose name has a space, with an environment that sees this one's packages."""
    root = tmp_path / "a project"
    root.mkdir()
    shutil.copy(LAUNCHER, root / "poe")
    (root / "tools").mkdir()
    shutil.copy(LAUNCHER.parent / "tools" / "tasks.py", root / "tools")
    (root / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (root / "poetry.lock").write_text("", encoding="utf-8")
    (root / "show.py").write_text(SHOW, encoding="utf-8")
    venv.create(root / ".venv", symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (root / ".venv" / "lib" / version / "site-packages" / "tests.pth").write_text(
        sysconfig.get_paths()["purelib"], encoding="utf-8"
    )
    (root / ".venv" / ".poe-stamp").write_text(stamp(root), encoding="utf-8")
    return root


def run(*command: str | Path, folder: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "POE_PYTHON"}
    }
    environment |= {"HOME": str(folder), "PATH": path or os.environ["PATH"]}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def path_with(tmp_path: Path, *programs: str) -> str:
    """A PATH that holds these programs and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in programs:
        found = shutil.which(program)
        assert found, program
        (folder / program).symlink_to(found)
    return str(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ["What is FTI?", "--k", "5"],
        ["two  spaces", "", "it's", 'a "quote"', "$HOME", "*", "back\\slash", "\\n", "tab\t", "línea\nnueva"],
        ["--help", "-v", "--", "--x=1"],
    ],
)
def test_arguments_reach_the_task_unharmed(project: Path, arguments: list[str]) -> None:
    result = run(project / "poe", "show", *arguments, folder=project)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["arguments"] == arguments


def test_a_task_runs_in_the_projects_root_and_environment_from_any_folder(
    project: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shown = json.loads(run(project / "poe", "show", folder=elsewhere).stdout)
    assert shown["folder"] == str(project)
    assert shown["python"] == str(project / ".venv")


def test_it_works_through_a_chain_of_links(project: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "twin").symlink_to("../a project/poe")
    (tmp_path / "twin").symlink_to(tmp_path / "bin" / "twin")
    result = run(tmp_path / "twin", "show", "x", folder=tmp_path)
    shown = json.loads(result.stdout)
    assert (shown["arguments"], shown["folder"]) == (["x"], str(project))
    assert shown["python"] == str(project / ".venv")


def test_without_a_task_it_lists_the_tasks(project: Path) -> None:
    result = run(project / "poe", folder=project)
    assert result.returncode == 0
    assert "show" in result.stdout
    assert "Print the arguments and where the task runs" in result.stdout


def test_without_a_task_it_lists_them_by_group(project: Path) -> None:
    shown = run(project / "poe", folder=project).stdout
    assert shown.index("First\n") < shown.index("  show") < shown.index("  run-evaluation")


@pytest.mark.parametrize(("typo", "meant"), [("shwo", "show"), ("evaluation", "run-evaluation")])
def test_a_mistyped_task_gets_one_line_that_names_the_closest(project: Path, typo: str, meant: str) -> None:
    result = run(project / "poe", typo, folder=project)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert meant in result.stderr


def test_hints_call_the_launcher_as_the_user_did(project: Path) -> None:
    (project / "below").mkdir()
    called = {
        folder: json.loads(run(command, "show", folder=project / folder).stdout)["called"]
        for folder, command in ((".", "./poe"), ("below", "../poe"))
    }
    assert called == {".": "./poe", "below": "../poe"}
    there = json.loads(run(project / "poe", "show", folder=project).stdout)["called"]
    assert there == f"'{project}/poe'"  # quoted: its folder has a space


def test_a_task_prints_nothing_but_its_own(project: Path) -> None:
    result = run(project / "poe", "show", folder=project)
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


@pytest.mark.parametrize("arguments", [["--with", "trainig"], ["--with=training,trainig"]])
def test_an_unknown_group_is_refused_with_those_there_are(project: Path, arguments: list[str]) -> None:
    result = run(project / "poe", "setup", *arguments, folder=project)
    assert result.returncode == 1
    assert "'trainig'" in result.stderr
    assert "training" in result.stderr.replace("trainig", "")
    assert (project / ".venv" / ".poe-stamp").exists()


def test_completion_scripts_are_answered(project: Path) -> None:
    """With the launcher linked into the PATH as ``poe``, as docs/operations.md says."""
    (project / "bin").mkdir()
    (project / "bin" / "poe").symlink_to(project / "poe")
    script = run(project / "bin" / "poe", "_bash_completion", folder=project).stdout
    completed = subprocess.run(
        [
            "bash",
            "-c",
            f'{script}\nCOMP_WORDS=(poe sh) COMP_CWORD=1; _poe_complete; echo "${{COMPREPLY[@]}}"',
        ],
        env={**os.environ, "PATH": f"{project / 'bin'}:{os.environ['PATH']}"},
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.stdout.split() == ["show"]


def test_the_exit_status_is_the_tasks(project: Path) -> None:
    (project / "show.py").write_text("raise SystemExit(7)", encoding="utf-8")
    assert run(project / "poe", "show", folder=project).returncode == 7


def test_a_start_with_nothing_to_set_up_says_nothing(project: Path) -> None:
    result = run(project / "poe", "show", folder=project)
    assert result.returncode == 0
    assert "Setting up" not in result.stderr


def test_missing_python_is_said_in_one_line(project: Path, tmp_path: Path) -> None:
    shutil.rmtree(project / ".venv")
    result = run(project / "poe", "show", folder=project, path=path_with(tmp_path, *PROGRAMS, "git"))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("poe: Python 3.11 or 3.12 is missing")


def test_an_unfit_python_is_named_with_its_version(project: Path, tmp_path: Path) -> None:
    shutil.rmtree(project / ".venv")
    path = path_with(tmp_path, *PROGRAMS, "git")
    old = Path(path) / "python3"
    old.write_text("#!/bin/sh\necho 3.9.2\n", encoding="utf-8")
    old.chmod(0o755)
    result = run(project / "poe", "show", folder=project, path=path)
    assert "(found 3.9.2)" in result.stderr


def test_missing_git_is_said_in_one_line(project: Path, tmp_path: Path) -> None:
    shutil.rmtree(project / ".venv")
    result = run(project / "poe", "show", folder=project, path=path_with(tmp_path, *PROGRAMS))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("poe: git is missing")


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "poetry.lock").write_text("changed", encoding="utf-8"),
        lambda root: (root / "pyproject.toml").write_text(PROJECT + "\n", encoding="utf-8"),
        lambda root: (root / ".venv" / ".poe-unfinished").touch(),
        lambda root: (root / ".venv" / "bin" / "python").unlink(),
        lambda root: (root / ".venv" / "pyvenv.cfg").write_text("version = 3.12.0", encoding="utf-8"),
    ],
    ids=["lock", "project file", "a killed set-up", "no interpreter", "another interpreter"],
)
def test_an_environment_that_no_longer_fits_is_set_up_again(project: Path, tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    change(project)
    result = run(project / "poe", "show", folder=project, path=path_with(tmp_path, *PROGRAMS, "git"))
    # No Python on this PATH, so the set-up ends at its first question: that it was begun is what counts.
    assert "Python 3.11 or 3.12 is missing" in result.stderr
    assert result.stdout == ""
