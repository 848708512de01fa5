"""Names of code in questions, and the code that defines them."""

import pytest

from llm_engineering.application.text.markdown import defines_any, find_code_names


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("Where is text_hash?", {"text_hash"}),
        ("What does readRow do, and RowReader?", {"readRow", "RowReader"}),
        ("How does run() end?", {"run"}),
        ("Is LoRA on AWS, on the iPhone, DevOps?", {"LoRA", "iPhone", "DevOps"}),
        ("Why not?", set()),
    ],
)
def test_names_are_told_by_how_they_are_written(question: str, names: set[str]) -> None:
    assert find_code_names(question) == names


@pytest.mark.parametrize(
    ("code", "defined"),
    [
        ("def read_row(line):", True),
        ("    async def read_row(self):", True),
        ("class read_row:", True),
        ("export function read_row(line) {", True),
        ("read_row = partial(read, 1)", True),
        ("read_row: Reader = find()", True),
        ("x = read_row(line)", False),
        ("    read_row = 3", False),
        ("def read_rows(line):", False),
        ("read_row == 3", False),
    ],
)
def test_a_definition_is_told_from_a_use(code: str, defined: bool) -> None:
    assert defines_any(code, {"read_row"}) is defined


def test_nothing_defines_no_name() -> None:
    assert not defines_any("def f(): pass", frozenset())
