"""Transcripts: who said what, from files as Teams, Zoom and others write them, and from odd ones."""

from pathlib import Path

import pytest

from llm_engineering.application.ports import FetchedDocument, Link, Rejected
from llm_engineering.infrastructure.sources.files import FilesReader
from llm_engineering.infrastructure.sources.files.plain import read_text
from llm_engineering.infrastructure.sources.files.transcripts import read_transcript
from llm_engineering.infrastructure.sources.files.writings import Limits, UnreadableError

LIMITS = Limits()
TEAMS = """WEBVTT

NOTE made by a machine
--> nothing here counts

STYLE
::cue { color: lime }

8f1-0
00:00:01.000 --> 00:00:03.000 align:start position:10%
<v Ada Winter>We would like to</v>

8f1-1
00:00:03.000 --> 00:00:05.500
<v Ada Winter>buy 5 &amp; sell <c.yellow>2</c>.</v>

8f1-2
00:00:06.000 --> 00:00:08.000
<v.loud Ben Okafor>Noted: by Friday.</v>
"""
ZOOM = (
    "\ufeffWEBVTT\r\n\r\n1\r\n00:00:01.000 --> 00:00:02.000\r\nAda Winter: Good morning.\r\n\r\n"
    "2\r\n00:00:02.500 --> 00:00:04.000\r\nHow are you?\r\n"
)
SRT = "1\n00:00:01,000 --> 00:00:02,000\n<i>Hello</i> {\\an8}there.\n2\n00:00:02,000 --> 00:00:03,000\nIt is 10:30 now.\n"
ROLLING = (
    "WEBVTT\n\n00:01.000 --> 00:02.000\nthe rates\n\n00:02.000 --> 00:03.000\nthe rates\nhave risen\n\n"
    "00:03.000 --> 00:04.000\nhave risen\nagain\n"
)
TEAMS_TEXT = "0:0:3.480 --> 0:0:5.990\nAda Winter\nMorning, all.\n\n0:0:6.0 --> 0:0:8.1\nBen Okafor\nMorning.\nShall we start?\n"
TEAMS_DOWNLOAD = "Ada Winter   0:03\nMorning, all.\n\nBen Okafor   0:06\nShall we start?\n"
ZOOM_TEXT = "[Ada Winter] 10:01:02\nMorning, all.\n\n[Ben Okafor] 10:01:09\nShall we start?\n"
ZOOM_CHAT = (
    "10:01:02 From Ada Winter to Everyone:\n\tMorning, all.\n10:01:09 From Ben Okafor : Shall we start?\n"
)
PLAIN = "**Ada Winter:** Morning, all.\n\n**Ben Okafor:** Shall we start?"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (TEAMS, "**Ada Winter:** We would like to buy 5 & sell 2.\n\n**Ben Okafor:** Noted: by Friday."),
        (ZOOM, "**Ada Winter:** Good morning. How are you?"),
        (SRT, "Hello there. It is 10:30 now."),
        (ROLLING, "the rates have risen again"),
        (
            TEAMS.replace("\n", "\r"),
            "**Ada Winter:** We would like to buy 5 & sell 2.\n\n**Ben Okafor:** Noted: by Friday.",
        ),
    ],
)
def test_turns_of_speakers_are_paragraphs(content: str, expected: str) -> None:
    [writing] = read_transcript(content.encode(), LIMITS)
    assert writing.text == expected


def test_other_encodings_are_read() -> None:
    [writing] = read_transcript(TEAMS.replace("Ada", "Ádá").encode("utf-16"), LIMITS)
    assert writing.text.startswith("**Ádá Winter:**")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (TEAMS_TEXT, "**Ada Winter:** Morning, all.\n\n**Ben Okafor:** Morning. Shall we start?"),
        (TEAMS_DOWNLOAD, PLAIN),
        (ZOOM_TEXT, PLAIN),
        (ZOOM_CHAT, PLAIN),
    ],
)
def test_transcripts_saved_as_text_are_told_from_other_texts(content: str, expected: str) -> None:
    [writing] = read_text(content.encode(), LIMITS)
    assert (writing.text, writing.platform) == (expected, "transcript")


@pytest.mark.parametrize(
    "content",
    [
        "Notes\n\nAda Winter   0:03\nOne line only.",
        "Train times\n\nBerlin   10:03\nBonn   11:03",
        "Ada Winter   0:03\nAlone.",
    ],
)
def test_other_texts_stay_as_they_are(content: str) -> None:
    [writing] = read_text(content.encode(), LIMITS)
    assert writing.platform == "file"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"WEBVTT\n\n",
        b"WEBVTT\n\n00:01.000 --> 00:02.000\n\n",
        b"-->\n" * 99,
        b"\0\x01\x02",
        b"WEBVTT\n\nNOTE\n" * 9,
    ],
)
def test_what_nobody_says_anything_in_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableError):
        list(read_transcript(content, LIMITS))


async def test_a_call_becomes_a_record_of_nobody(tmp_path: Path) -> None:
    (tmp_path / "call.vtt").write_text(TEAMS)
    (tmp_path / "broken.srt").write_text("nothing")
    link = Link(str(tmp_path), "", "interaction")
    items = [item async for item in FilesReader().read(link, {})]
    [document] = [item.document for item in items if isinstance(item, FetchedDocument)]
    assert (document.category, document.author, document.metadata["channel"]) == ("interaction", "", "call")
    assert [item.source.rpartition("/")[2] for item in items if isinstance(item, Rejected)] == ["broken.srt"]
