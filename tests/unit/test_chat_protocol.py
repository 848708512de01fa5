"""How a chat stream is read, what a request says, and how tokens are estimated."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.ports import GenerationOptions, Message
from llm_engineering.domain.errors import ModelServiceError
from llm_engineering.domain.retrieval import Usage
from llm_engineering.infrastructure.shared.openai_stream import (
    Lines,
    ReplyReader,
    error_message,
    event_data,
    request_body,
    tokens_at_most,
)
from llm_engineering.infrastructure.shared.retries import delay_seconds, retry_after_seconds

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def chunk(text: str | None = None, finish: str | None = None, **extra: object) -> str:
    return json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish}], **extra})


def test_a_reply_is_its_pieces_with_reason_and_usage_from_whichever_event_has_them() -> None:
    reader = ReplyReader("it")
    texts = [reader.read(data) for data in (chunk(), chunk("Hel"), chunk("lo"), chunk(finish="length"))]
    texts.append(
        reader.read(json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}))
    )
    assert "".join(texts) == "Hello"
    assert reader.make_closing_delta().finish_reason == "length"
    assert reader.make_closing_delta().usage == Usage(prompt_tokens=3, completion_tokens=2)


def test_a_stream_without_a_finish_reason_is_not_a_reply() -> None:
    reader = ReplyReader("it")
    reader.read(chunk("Hello"))
    with pytest.raises(ModelServiceError, match="before the reply was finished after 5 characters"):
        reader.make_closing_delta()


@pytest.mark.parametrize("data", ["", "{", "[]", "3", '{"choices": [7]}', '{"choices": 7}', '{"usage": 3}'])
def test_events_that_make_no_sense_are_told_as_such(data: str) -> None:
    with pytest.raises(ModelServiceError, match="not a chat completion chunk"):
        ReplyReader("it").read(data)


def test_an_error_event_is_an_error() -> None:
    with pytest.raises(
        ModelServiceError, match="it failed before the first word of the reply: out of memory"
    ):
        ReplyReader("it").read('{"error": {"message": "out of memory"}}')


@pytest.mark.parametrize(
    ("line", "data"),
    [
        ("data: x", "x"),
        ("data:x", "x"),
        (": comment", None),
        ("", None),
        ("event: error", None),
        ("data: [DONE]", "[DONE]"),
    ],
)
def test_only_data_lines_carry_data(line: str, data: str | None) -> None:
    assert event_data(line) == data


def test_error_answers_of_every_shape_have_a_message() -> None:
    assert error_message('{"error": {"message": "no", "code": "c", "type": "t"}}') == ("no", "c t")
    assert error_message('{"error": "no"}') == ("no", "")
    assert error_message("<html>Bad gateway</html>") == ("<html>Bad gateway</html>", "")
    assert error_message("[1]") == ("[1]", "")


def test_a_request_says_only_what_was_chosen() -> None:
    body = request_body("m", [Message("user", "hi")], GenerationOptions(seed=None))
    assert not {"seed", "stop", "response_format"} & body.keys()
    body = request_body(
        "m", [Message("user", "hi")], GenerationOptions(json_schema={"type": "object"}, stop=("x",))
    )
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert body["stop"] == ["x"]


@given(st.text(), st.text())
def test_the_estimate_of_two_texts_is_at_least_that_of_one(one: str, other: str) -> None:
    assert tokens_at_most(f"{one}\n{other}") >= max(tokens_at_most(one), tokens_at_most(other))


@pytest.mark.parametrize(
    ("text", "tokens"),
    # Counted with SmolLM2's own tokenizer.
    [
        ("hello world", 2),
        ("The cat sat on the mat.", 7),
        ("2026-11-22", 10),
        ("def f(x):\n    return x", 8),
        ("", 0),
    ],
)
def test_the_estimate_is_never_below_a_real_count(text: str, tokens: int) -> None:
    assert tokens_at_most(text) >= tokens


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7),
        ("1.5", 1.5),
        ("-3", 0),
        ("soon", None),
        ("Fri, 02 Jan 2026 03:04:35 GMT", 30),
        ("Fri, 02 Jan 2026 03:00:00 GMT", 0),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


@given(st.integers(0, 20), st.floats(0, 0.999))
def test_waits_grow_within_their_bounds(attempt: int, chance: float) -> None:
    wait = delay_seconds(attempt, None, lambda: chance)
    full = min(30.0, 0.5 * 2**attempt)
    assert full / 2 <= wait <= full


@given(st.integers(0, 20), st.floats(0, 100), st.floats(0, 0.999))
def test_a_wait_the_server_asked_for_is_never_shortened(attempt: int, asked: float, chance: float) -> None:
    assert delay_seconds(attempt, asked, lambda: chance) >= asked


@given(text=st.text(), sizes=st.lists(st.integers(1, 9), min_size=1))
def test_lines_are_the_same_however_their_bytes_were_cut(text: str, sizes: list[int]) -> None:
    data, lines, found = text.encode(), Lines(), list[str]()
    for number in range(len(data)):
        size = sizes[number % len(sizes)]
        part, data = data[:size], data[size:]
        found += lines.feed(part)
    found += lines.end()
    assert found == [line.rstrip("\r") for line in text.split("\n")[:-1]] + [text.split("\n")[-1]] * (
        not text.endswith("\n") and bool(text)
    )


def test_a_whole_message_is_read_like_a_stream_of_one_piece() -> None:
    reader = ReplyReader("The service")
    message = {"role": "assistant", "content": "All of it."}
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    whole = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
    assert reader.read(json.dumps(whole)) == "All of it."
    assert reader.make_closing_delta().usage == Usage(prompt_tokens=3, completion_tokens=4)


@pytest.mark.parametrize(
    ("pieces", "read"),
    [
        (["\\ud83d\\ude00!"], ["\U0001f600!"]),
        (["cat \\ud83d", "\\ude00!"], ["cat ", "\U0001f600!"]),
        (["cat \\ud83d", "and dog"], ["cat ", "\ufffdand dog"]),
        (["\\ude00 dog"], ["\ufffd dog"]),
        (["dog \\ud83d"], ["dog "]),
    ],
)
def test_halves_of_characters_are_joined_or_replaced(pieces: list[str], read: list[str]) -> None:
    reader = ReplyReader("the service")
    events = ['{"choices": [{"delta": {"content": "' + piece + '"}}]}' for piece in pieces]
    assert [reader.read(event) for event in events] == read
