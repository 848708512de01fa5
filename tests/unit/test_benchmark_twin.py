"""The questions that a twin is measured by, and what of a reply counts as right."""

from pathlib import Path

import pytest

from benchmarks.twin import QUESTIONS, read_questions
from llm_engineering.domain.errors import InvalidInputError


def test_the_samples_questions_can_be_read_and_most_were_held_back() -> None:
    rows = read_questions(QUESTIONS)
    asked = [row for row in rows if row["must"]]
    assert len(asked) == 60
    assert sum(row["held_back"] for row in asked) == 45
    assert all(isinstance(group, list) and group for row in asked for group in row["must"])


@pytest.mark.parametrize("line", ["no JSON", "[]", '{"answer": "x"}', "3"])
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(f'{{"question": "Why?"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(InvalidInputError, match="line 2"):
        read_questions(file)
