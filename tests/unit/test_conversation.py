"""A conversation on the terminal: follow-ups, commands, and what they change in the requests."""

import argparse
import json
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from llm_engineering.application.inference.events import NO_OPTIONS, RagRequest
from llm_engineering.domain.errors import InvalidInputError, TwinError
from llm_engineering.domain.inference import Intent, RagResult, ResponseProvenance
from llm_engineering.domain.retrieval import Answer, RrfFusion, SearchMode
from llm_engineering.settings import Settings, load_settings
from tools.conversation import Conversation
from tools.search_options import add_search_options
from tools.vote import note_answer, vote_on_last


class RepeatingAnswerer:
    """Answers each question with itself in capitals; ``broken`` ones raise what they are given."""

    def __init__(self, broken: dict[str, BaseException] | None = None) -> None:
        self.requests: list[RagRequest] = []
        self._broken = broken or {}

    def answer(self, request: RagRequest, *, sources: bool = True) -> RagResult:
        self.requests.append(request)
        if error := self._broken.get(request.query.text):
            raise error
        return RagResult(
            trace_id="t1",
            answer=Answer(question=request.query.text, text=request.query.text.upper()),
            provenance=ResponseProvenance(mode=SearchMode.HYBRID, fusion=RrfFusion()),
        )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, local={"data_dir": tmp_path})


def talk(
    settings: Settings, lines: Iterable[str], answerer: RepeatingAnswerer | None = None
) -> list[RagRequest]:
    """What was asked in a conversation of these lines."""
    parser = argparse.ArgumentParser()
    add_search_options(parser)
    answerer = answerer or RepeatingAnswerer()
    waiting = iter(lines)

    def read(_: str) -> str:
        line = next(waiting, None)
        if line is None:
            raise EOFError
        if line == "^C":
            raise KeyboardInterrupt
        return line

    conversation = Conversation(parser.parse_args([]), None, NO_OPTIONS, answerer, settings)  # type: ignore[arg-type]
    conversation.run(read)
    return answerer.requests


def test_a_follow_up_comes_with_what_was_said(settings: Settings) -> None:
    first, second = talk(settings, ["What is RRF?", "And who wrote that?"])
    assert first.history == ()
    assert [(turn.role, turn.content) for turn in second.history] == [
        ("user", "What is RRF?"),
        ("assistant", "WHAT IS RRF?"),
    ]


def test_new_forgets_what_was_said(settings: Settings) -> None:
    assert talk(settings, ["One?", "/new", "Two?"])[1].history == ()


def test_a_long_conversation_hands_on_its_last_turns_only(settings: Settings) -> None:
    last = talk(settings, [f"Question {number}?" for number in range(30)])[-1]
    assert len(last.history) == 20
    assert last.history[-1].content == "QUESTION 28?"


def test_author_narrows_what_follows_until_it_is_taken_back(settings: Settings) -> None:
    asked = talk(settings, ["/author ada winter", "One?", "/author", "Two?"])
    assert [request.query.filter.authors for request in asked] == [("ada winter",), ()]


def test_write_asks_for_a_text(settings: Settings) -> None:
    asked = talk(settings, ["/write a post about RRF", "What is it?"])
    assert [request.intent for request in asked] == [Intent.WRITE, None]
    assert asked[0].query.text == "a post about RRF"


@pytest.mark.parametrize("end", ["/quit", "  /quit "])
def test_quit_ends_and_empty_lines_ask_nothing(settings: Settings, end: str) -> None:
    assert talk(settings, ["", "   ", end, "never asked"]) == []


def test_a_mistyped_command_names_the_closest_and_asks_nothing(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(settings, ["/suorces", "/xyzzy"]) == []
    told = capsys.readouterr().err
    assert "/sources" in told
    assert "/help" in told


def test_a_failure_and_ctrl_c_end_an_answer_but_not_the_conversation(settings: Settings) -> None:
    answerer = RepeatingAnswerer({"One?": TwinError("The model is away."), "Two?": KeyboardInterrupt()})
    asked = talk(settings, ["^C", "One?", "Two?", "Three?"], answerer)
    assert [request.query.text for request in asked] == ["One?", "Two?", "Three?"]
    assert asked[-1].history == ()


def test_help_and_sources_work_before_anything_was_asked(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(settings, ["/help", "/sources"]) == []
    assert "/author" in capsys.readouterr().out


class TestVote:
    def test_without_an_answer_there_is_nothing_to_vote_on(self, settings: Settings) -> None:
        with pytest.raises(InvalidInputError):
            vote_on_last(settings, "up", "")

    @pytest.mark.parametrize("damaged", ["", "{}", "[]", "null", '{"trace_id"'])
    def test_a_damaged_note_is_told_as_no_answer(self, settings: Settings, damaged: str) -> None:
        (settings.local.data_dir / "last_answer.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(InvalidInputError):
            vote_on_last(settings, "up", "")

    def test_the_last_answer_is_noted_with_where_it_was_given(self, settings: Settings) -> None:
        note_answer(settings, "t1")
        note_answer(settings, "t2", url="http://127.0.0.1:1")
        noted = json.loads((settings.local.data_dir / "last_answer.json").read_text(encoding="utf-8"))
        assert noted == {"trace_id": "t2", "url": "http://127.0.0.1:1"}

    def test_a_folder_that_cannot_be_written_to_costs_only_the_vote(self, tmp_path: Path) -> None:
        tmp_path.joinpath("file").touch()
        note_answer(load_settings(None, local={"data_dir": tmp_path / "file" / "below"}), "t1")


def test_what_was_typed_is_kept_for_this_user_alone(settings: Settings) -> None:
    from tools.conversation import _keep

    file = settings.local.data_dir / "ask_history"
    _keep(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
