"""The question set: JSON Lines with line numbers for what is wrong, places found again in a corpus that has moved."""

from pathlib import Path

import pytest

from llm_engineering.application.evaluation.rag.questions import (
    Question,
    Relevant,
    merge_questions,
    question_id,
    read_questions,
    resolve,
    write_questions,
)
from llm_engineering.application.text.overlap import find_quote
from llm_engineering.domain.documents import CleanDocument, Span, derive_id
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.retrieval import MetadataFilter
from tests.fakes.warehouse import FakeWarehouse

TEXT = "# Overlap\n\nOverlap repeats the last\nsentences of a chunk. It costs room.\n"


def document(link: str, text: str = TEXT) -> CleanDocument:
    return CleanDocument(
        id=derive_id("document", link),
        category="article",
        title="Overlap",
        text=text,
        link=link,
        platform="site",
        author="Ada Winter",
        author_id="ada",
        language="en",
        source_hash="1",
    )


def store(*documents: CleanDocument) -> FakeWarehouse:
    warehouse = FakeWarehouse()
    warehouse.clean.upsert(documents)
    return warehouse


def question(**place: object) -> Question:
    return Question(id="q", question="What repeats?", relevant=(Relevant.model_validate(place),))


QUOTE = "Overlap repeats the last sentences of a chunk."


class TestFile:
    def test_a_set_survives_a_round_trip(self, tmp_path: Path) -> None:
        questions = [
            question(link="a.html", quote=QUOTE),
            Question(id="n", question="Was kostet Brot?", answerable=False, language="de", kind="foreign"),
            question(document_id="d", start=1, end=2).model_copy(
                update={"id": "f", "filter": MetadataFilter(authors=("Ada",))}
            ),
        ]
        write_questions(tmp_path / "new" / "set.jsonl", questions)
        assert read_questions(tmp_path / "new" / "set.jsonl") == questions

    def test_every_bad_line_is_named_with_its_number(self, tmp_path: Path) -> None:
        path = tmp_path / "set.jsonl"
        path.write_text(
            '{"id": "a", "question": "?", "answerable": false}\n\n'
            '{"id": "a", "question": "?", "answerable": false}\n'
            "{not json}\n"
            '{"id": "c", "question": "Who?"}\n'
            '{"id": "d", "question": "Who?", "relevant": [{"quote": "x"}], "colour": 1}\n',
            encoding="utf-8",
        )
        with pytest.raises(InvalidInputError) as caught:
            read_questions(path)
        message = str(caught.value)
        assert "line 3: the id 'a' stands in line 1 already" in message
        assert "line 4: " in message
        assert "line 5: an answerable question needs 'relevant'" in message
        assert "line 6: relevant.0: name the document by 'document_id' or by 'link'" in message
        assert "line 6: colour: " in message

    def test_a_missing_file_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="cannot be read"):
            read_questions(tmp_path / "none.jsonl")

    def test_ids_depend_on_the_words_alone(self) -> None:
        assert question_id("What is RRF?", "rule") == question_id("what is rrf?", "rule")
        assert question_id("What is RRF?", "rule") != question_id("What is RRF?", "model")

    def test_what_was_written_by_hand_wins(self) -> None:
        hand = Question(id="mine", question="What is  RRF?", answerable=False)
        made = Question(id="rule-1", question="what is RRF?", answerable=False, source="rule")
        assert merge_questions([hand], [made]) == [hand]


class TestPlaces:
    def test_a_quote_is_found_whatever_its_spacing(self) -> None:
        resolved = resolve(
            [question(link="a.html", quote=QUOTE)], store(document("https://x.org/a.html")).clean
        )
        [labelled] = resolved.questions
        span = labelled.targets[0].span
        assert span is not None
        assert TEXT[span.start : span.end] == "Overlap repeats the last\nsentences of a chunk."

    def test_the_end_of_a_path_names_a_document_wherever_it_is_served(self) -> None:
        for link in ("http://127.0.0.1:8111/articles/a.html", "https://blog.example.org/new/articles/a.html"):
            resolved = resolve([question(link="articles/a.html", quote=QUOTE)], store(document(link)).clean)
            assert not resolved.stale

    def test_half_a_name_names_nothing(self) -> None:
        resolved = resolve(
            [question(link="a.html", quote=QUOTE)], store(document("https://x.org/ba.html")).clean
        )
        assert "no document 'a.html'" in resolved.stale["q"]

    def test_a_file_of_a_repository_is_named_by_its_path(self) -> None:
        linked = document("https://git.example.org/me/project#docs/a.md")
        assert not resolve([question(link=linked.link, quote=QUOTE)], store(linked).clean).stale

    def test_a_name_of_two_documents_is_refused(self) -> None:
        both = store(document("https://x.org/en/a.html"), document("https://x.org/de/a.html"))
        with pytest.raises(InvalidInputError, match="names several documents"):
            resolve([question(link="a.html", quote=QUOTE)], both.clean)

    def test_offsets_hold_while_the_text_does_and_the_quote_moves_with_it_afterwards(self) -> None:
        start = TEXT.index("It costs")
        place = {"link": "a.html", "start": start, "end": start + 14, "quote": "It costs room."}
        before = resolve([question(**place)], store(document("https://x.org/a.html")).clean)
        after = resolve([question(**place)], store(document("https://x.org/a.html", "New. " + TEXT)).clean)
        assert before.questions[0].targets[0].span == Span(start=start, end=start + 14)
        assert after.questions[0].targets[0].span == Span(start=start + 5, end=start + 19)

    def test_a_quote_that_is_gone_makes_the_question_stale(self) -> None:
        changed = store(document("https://x.org/a.html", "Something else entirely."))
        resolved = resolve([question(link="a.html", quote=QUOTE)], changed.clean)
        assert resolved.questions == ()
        assert "no longer stands" in resolved.stale["q"]

    def test_without_a_place_the_whole_document_counts(self) -> None:
        [labelled] = resolve(
            [question(link="a.html")], store(document("https://x.org/a.html")).clean
        ).questions
        assert labelled.targets[0].span is None

    def test_a_quote_with_signs_of_regular_expressions_is_taken_literally(self) -> None:
        assert find_quote("costs (about) 2+2 = 4?", "(about) 2+2") == Span(start=6, end=17)
        assert find_quote("anything", "   ") is None
