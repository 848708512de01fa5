"""Requests and answers of a batch as lines of JSON."""

import json
from pathlib import Path

import pytest

from llm_engineering.application.deployment.batch import BatchAnswer, read_answered, read_reply, read_requests
from llm_engineering.domain.errors import InvalidInputError


def test_a_text_stands_below_the_instruction() -> None:
    (request,) = read_requests(['{"id": "a", "text": "Long."}'], instruction="Summarise:", max_tokens=9)
    body = json.loads(request.body)
    assert body == {"messages": [{"role": "user", "content": "Summarise:\n\nLong."}], "max_tokens": 9}


def test_messages_are_taken_as_they_are_and_an_id_is_derived() -> None:
    line = json.dumps(
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}
    )
    (first,), (again,) = read_requests([line]), read_requests(["", line])
    assert first == again
    assert [one["role"] for one in json.loads(first.body)["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", "{}", '{"messages": "x"}', '{"messages": [{"role": "user"}]}', "1"]
)
def test_a_line_that_is_no_request_is_named(line: str) -> None:
    with pytest.raises(InvalidInputError, match="Line 2"):
        read_requests(['{"text": "a"}', line])


def test_an_id_twice_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="Line 2"):
        read_requests(['{"id": 1, "text": "a"}', '{"id": "1", "text": "b"}'])


@pytest.mark.parametrize(
    "reply", [b"", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"[1]", b"\xff"]
)
def test_a_reply_that_is_none_is_an_error_of_its_request(reply: bytes) -> None:
    answer = read_reply("a", reply)
    assert (answer.id, answer.text) == ("a", "")
    assert answer.error


def test_answers_with_an_error_and_broken_lines_are_asked_again() -> None:
    lines = [
        json.dumps(BatchAnswer("a", "text").record),
        json.dumps(BatchAnswer("b", error="refused").record),
        '{"id": "c", "te',
    ]
    assert read_answered(lines) == {"a"}


def test_a_file_is_gone_on_with(tmp_path: Path) -> None:
    from tools.batch_inference import _without_answer, _write

    output = tmp_path / "answers.jsonl"
    output.write_text(json.dumps(BatchAnswer("a", "one").record) + '\n{"id": "b", "te')
    requests = read_requests([json.dumps({"id": name, "text": name}) for name in "abc"])
    left = _without_answer(requests, output)
    assert [request.id for request in left] == ["b", "c"]
    assert _write([BatchAnswer("b", "two"), BatchAnswer("c", error="refused")], output) == (1, 1)
    assert [request.id for request in _without_answer(requests, output)] == ["c"]
