"""What lies on the disk, and what runs in the project's name: readable and changeable by its owner alone."""

import re
import stat
from pathlib import Path

import pytest

from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.settings import load_settings

WORKFLOWS = sorted((Path(__file__).parents[2] / ".github" / "workflows").glob("*.yml"))


def test_the_data_are_closed_to_other_users_of_the_machine(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    with open_resources(load_settings(None, local={"data_dir": folder})):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with open_resources(load_settings(None, local={"data_dir": tmp_path / "not-there"})):
        assert not (tmp_path / "not-there").exists()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_was_looked_at_and_leaves_no_credentials(path: Path) -> None:
    text = path.read_text()
    actions = re.findall(r"uses: (\S+)", text)
    assert actions
    strangers = [action for action in actions if not action.startswith("./")]
    assert not [action for action in strangers if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)]
    assert text.count("persist-credentials: false") == text.count("actions/checkout@")
