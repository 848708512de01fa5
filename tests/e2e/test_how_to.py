"""The how-tos, followed as a newcomer would: every block is written or run in a copy of the project."""

from pathlib import Path

import pytest

from tests.how_to import ROOT, HowToError, copy_project, follow, read_blocks

PAGES = sorted(path for path in (ROOT / "docs/how-to").glob("*.md") if path.name != "README.md")


def test_there_is_a_page_for_each_way_to_extend_the_project() -> None:
    assert {path.stem for path in PAGES} >= {
        "add-a-source",
        "add-a-record-category",
        "add-an-adapter",
        "add-a-metric-or-judge",
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_how_to_can_be_followed(page: Path, tmp_path: Path) -> None:
    follow(page.read_text(encoding="utf-8"), copy_project(tmp_path / "project"))


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```sh\ntrue\nfalse\ntrue\n```\n", "exit status 1"),
        ("```sh\npython -c 'import no_such_module'\n```\n", "ModuleNotFoundError"),
        ('```sh\ntrue\n```\n\n```python title="a.py"\n```\n', "must end in something that runs"),
        ("Only words.\n", "must end in something that runs"),
        ('```python title="here.py"\n```\n\n```sh\ntrue\n```\n', "is there already"),
        ('```python into="here.py" after="no such line"\n```\n\n```sh\ntrue\n```\n', "found 0"),
        ('```python into="here.py" after="twice"\n```\n\n```sh\ntrue\n```\n', "found 2"),
        ('```python into="here.py"\n```\n\n```sh\ntrue\n```\n', "names one line"),
    ],
)
def test_a_broken_how_to_fails(page: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text("twice\ntwice\n")
    with pytest.raises(HowToError) as caught:
        follow(page, tmp_path)
    assert complaint in str(caught.value)


def test_blocks_are_written_inserted_and_run_in_order(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/module.py").write_text("NAMES = [\n    'a',\n]\n")
    page = """
```console
$ this is only shown
```
```python title="new/file.py"
print("written")
```
```python into="package" after="'a',"
    'b',
```
```sh
python new/file.py > said.txt
python -c "from package.module import NAMES; print(NAMES)" >> said.txt
```
"""
    assert [block.counts for block in read_blocks(page)] == [False, True, True, True]
    follow(page, tmp_path)
    assert (tmp_path / "said.txt").read_text() == "written\n['a', 'b']\n"
