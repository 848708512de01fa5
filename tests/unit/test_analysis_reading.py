"""What is made of analyses: the sentence that decides, trends with decay, patterns, labels from a terminal."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from llm_engineering.application.analysis.explain import find_deciding_sentences
from llm_engineering.application.analysis.heads import LinearHead, TextEmbedder
from llm_engineering.application.analysis.patterns import find_entities
from llm_engineering.application.analysis.trend import compute_trends
from llm_engineering.domain.analyses import Analysis, AnalysisField, AnalysisSpec, FieldKind, Finding
from llm_engineering.domain.documents import CleanDocument
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.inference import Feedback
from tests.fakes.embedder import HashEmbedder
from tests.unit.test_analyses import ticket
from tools.label import ask_labels, choose_field

NOW = datetime(2026, 6, 30, tzinfo=UTC)
LEVEL = AnalysisField(name="level", kind=FieldKind.CLASS, values=("low", "medium", "high"), ordered=True)
SPEC = AnalysisSpec(
    task="notes", fields=(LEVEL, AnalysisField(name="thing", kind=FieldKind.ENTITIES, values=("A", "B")))
)


def word_head(*words: str) -> tuple[LinearHead, TextEmbedder]:
    embedder = HashEmbedder()
    weights = (20 * embedder.embed_queries(list(words)).T).astype(np.float32)
    bias = np.array([0.5, *[0.0] * (len(words) - 1)], dtype=np.float32)
    return LinearHead(words, weights, bias, embedder.fingerprint.digest), TextEmbedder(embedder)


class TestExplanations:
    def test_the_deciding_sentence_is_the_one_that_names_the_class(self) -> None:
        head, embedder = word_head("lamp", "kettle")
        records = [
            ticket(1, "We met on Monday. The lamp is dark. It rained."),
            ticket(2, "The kettle leaks."),
            ticket(3, "Hello there. A kettle, a kettle. Bye."),
        ]
        spans = find_deciding_sentences(records, ["lamp", "kettle", "kettle"], head, embedder)
        quotes = [one.text[span.start : span.end] for one, span in zip(records, spans, strict=True) if span]
        assert quotes == ["The lamp is dark.", "The kettle leaks.", "A kettle, a kettle."]


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "text", "found"),
        [
            ("date", "Am 3.5.2026 und am 4. Mai, nicht im Mai.", ["3.5.2026", "4. Mai", "Mai"]),
            (
                "date",
                "It came on 12 March 2026 or the 5th, not yesterday.",
                ["12 March 2026", "5th", "yesterday"],
            ),
            ("date", "You may march on.", []),
            ("time", "at 10:30 pm, um 15 Uhr, à 15h30", ["10:30 pm", "15 Uhr", "15h30"]),
            (
                "amount",
                "£1,299.00 or 49,90 € or 12 dollars, not 12 cats",
                ["£1,299.00", "49,90 €", "12 dollars"],
            ),
            ("number", "3 cats for £5 on 4 May at 10:30, version 1.2-beta, AB-12", ["3"]),
            (r"order (\d+)", "My order 77 and order 8", ["77", "8"]),
        ],
    )
    def test_entities_are_found_as_they_are_written(self, pattern: str, text: str, found: list[str]) -> None:
        field = AnalysisField(name="x", kind=FieldKind.ENTITIES, pattern=pattern)
        values = list(find_entities(field, text))
        assert [value for value, _ in values] == found
        assert all(text[span.start : span.end] == value for value, span in values)

    def test_the_longest_name_of_a_catalogue_wins_and_words_are_whole(self) -> None:
        field = AnalysisField(
            name="x", kind=FieldKind.ENTITIES, values=("Pro", "Pro Max"), aliases={"Pro": ("profi",)}
        )
        found = [value for value, _ in find_entities(field, "PRO MAX, Profi, produce, pro.")]
        assert found == ["Pro Max", "Pro", "Pro"]

    @pytest.mark.parametrize(
        "text", ["1" * 20_000, "1 " * 10_000, "last " * 5_000, "1," * 10_000, "a 1 " * 5_000]
    )
    def test_hostile_text_takes_no_time(self, text: str) -> None:
        for pattern in ("date", "time", "amount", "number"):
            list(find_entities(AnalysisField(name="x", kind=FieldKind.ENTITIES, pattern=pattern), text))


def noted(
    number: int, level: str, days_ago: float, *things: str, client: str | None = "C1"
) -> tuple[Analysis, CleanDocument]:
    metadata = {"client": client} if client else {}
    record = ticket(number, published_at=NOW - timedelta(days=days_ago), metadata=metadata)
    findings = [Finding(field="level", value=level, made_by="head")]
    findings += [Finding(field="thing", value=thing, made_by="rule") for thing in things]
    result = Analysis(
        id=f"a{number}",
        task="notes",
        spec="s",
        key=record.id,
        document_ids=(record.id,),
        input_hash="h",
        findings=tuple(findings),
        model="m",
        created_at=NOW,
    )
    return result, record


class TestTrends:
    def test_old_records_weigh_half_after_a_half_life(self) -> None:
        rows = [noted(1, "low", 30, "A"), noted(2, "high", 0, "A"), noted(3, "medium", 0, "B", client="C2")]
        trends = compute_trends(
            [one for one, _ in rows], {doc.id: doc for _, doc in rows}, LEVEL, "thing", "client", NOW
        )
        assert [(one.group, one.entity, one.records) for one in trends] == [("C1", "A", 2), ("C2", "B", 1)]
        assert trends[0].score == pytest.approx(2 / 3)
        assert trends[0].change == pytest.approx(2 / 3)
        assert trends[1].score == 0.5

    def test_what_has_no_date_group_or_is_of_tomorrow_is_left_out(self) -> None:
        rows = [noted(1, "high", -1, "A"), noted(2, "high", 1, "A", client=None), noted(3, "high", 1)]
        [only] = compute_trends(
            [one for one, _ in rows], {doc.id: doc for _, doc in rows}, LEVEL, "thing", "client", NOW
        )
        assert (only.entity, only.records) == ("–", 1)


class TestLabelling:
    def test_numbers_values_guesses_and_skips(self) -> None:
        kept: list[Feedback] = []
        queue = [(ticket(number), "medium") for number in range(6)]
        typed = ["1\n", "\n", "nonsense\n", "high\n", "y\n", "q\n", "1\n"]
        assert ask_labels(queue, SPEC, LEVEL, "ann", kept.append, typed) == 3
        assert [one.correction for one in kept] == [{"level": "low"}, {"level": "high"}, {"level": "medium"}]
        assert {one.voter for one in kept} == {"ann"}
        assert [one.document_ids[0] for one in kept] == [ticket(number).id for number in (0, 2, 3)]

    def test_an_unknown_class_is_told_which_there_are(self) -> None:
        with pytest.raises(ConfigurationError, match="level"):
            choose_field(SPEC, "mood")
