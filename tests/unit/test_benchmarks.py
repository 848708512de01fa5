"""The benchmarks' front end and what they measure with; nothing here looks at a clock."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as front
from benchmarks.answering import separation
from benchmarks.common import Check, number
from benchmarks.corpora import documents, file_documents, made_up_documents, shuffled, site_documents
from benchmarks.roundtrips import Row
from llm_engineering.application.text.minhash import group, sign
from llm_engineering.domain.errors import InvalidInputError

ARTICLE = {
    "content": {"Title": "On chunks", "Content": "# Head\n\n- one two three four\n\nfive six seven eight"}
}


def tiny(options: front.Options) -> dict[str, Any]:
    """A part that measures nothing but what it was asked for."""
    columns = float(len(options.columns))
    return {"checks": [Check("columns", columns, 2, "at least").as_dict()], "quick": options.quick}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "PARTS", {"tiny": ("nothing", tiny), "other": ("nothing", tiny)})


class TestFrontEnd:
    def test_the_promised_parts_are_there(self) -> None:
        promised = {"features", "embedding", "rerun", "index", "retrieval", "memory", "imports", "roundtrips"}
        assert promised <= front.PARTS.keys()

    @pytest.mark.usefixtures("parts")
    def test_a_named_part_alone_is_run_and_written_with_the_facts_of_the_machine(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "deep" / "report.json"
        options = ["--columns", "text=a.b", "title=c", "--json", str(file), "--quick"]
        assert front.main(["tiny", *options]) == 0
        report = json.loads(file.read_text(encoding="utf-8"))
        assert list(report["parts"]) == ["tiny"]
        [check] = report["parts"]["tiny"]["checks"]
        assert (check["measured"], check["target"], check["met"]) == (2, 2, True)
        assert report["parts"]["tiny"]["quick"] is report["quick"] is True
        assert report["date"].endswith("+00:00")
        assert {"processor", "cores", "memory_gb", "python", "packages", "git_commit"} <= report[
            "machine"
        ].keys()
        assert "Targets" in capsys.readouterr().out

    @pytest.mark.usefixtures("parts")
    def test_without_names_all_parts_are_run_and_a_missed_target_is_no_error(self, tmp_path: Path) -> None:
        file = tmp_path / "report.json"
        assert front.main(["--json", str(file)]) == 0
        report = json.loads(file.read_text(encoding="utf-8"))
        assert list(report["parts"]) == ["tiny", "other"]
        assert [part["checks"][0]["met"] for part in report["parts"].values()] == [False, False]

    def test_an_unknown_part_is_named_with_those_that_exist(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            front.main(["speed"])
        assert "no part 'speed'; there are: features, embedding" in capsys.readouterr().err

    @pytest.mark.parametrize("pair", ["text", "text=", "author=x", "=x"])
    def test_a_column_that_cannot_be_read_is_refused(self, pair: str) -> None:
        with pytest.raises(InvalidInputError, match="expected text=FIELD or title=FIELD"):
            front.column_map([pair])

    def test_a_report_goes_to_a_file_of_its_own_time_and_commit(self) -> None:
        report = {"date": "2026-11-22T18:00:01+00:00", "machine": {"git_commit": "abc1234"}}
        file = front.default_file(report)
        assert file.parts[-3:] == ("data", "benchmarks", "2026-11-22T180001Z-abc1234.json")


class TestChecks:
    @pytest.mark.parametrize(
        ("bound", "measured", "met"),
        [
            ("at least", 2, True),
            ("at least", 1.9, False),
            ("at most", 2, True),
            ("at most", 2.1, False),
            ("exactly", 2, True),
            ("exactly", 3, False),
        ],
    )
    def test_a_target_is_met_or_not(self, bound: Any, measured: float, met: bool) -> None:
        assert Check("x", measured, 2, bound).met is met

    @pytest.mark.parametrize(
        ("value", "shown"), [(1234.5, "1,234"), (12.34, "12.3"), (0.4351, "0.435"), (3.0, "3"), (0, "0")]
    )
    def test_numbers_show_three_digits_that_matter(self, value: float, shown: str) -> None:
        assert number(value) == shown

    def test_round_trips_expected_are_batches_begun(self) -> None:
        assert Row("x", "read", 0, 257, 256, 2).expected == 4
        assert Row("x", "read", 0, 256, 256).expected == 1


class TestCorpora:
    def test_a_json_array_and_json_lines_give_the_same_documents(self, tmp_path: Path) -> None:
        array, lines = tmp_path / "corpus.json", tmp_path / "corpus.jsonl"
        items = [ARTICLE, {"title": "Flat", "text": "a text"}, {"title": "without text"}]
        array.write_text(json.dumps(items), encoding="utf-8")
        lines.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
        found = list(file_documents(array, {}))
        assert [(d.title, d.text) for d in found] == [
            ("On chunks", ARTICLE["content"]["Content"]),
            ("Flat", "a text"),
        ]
        assert list(file_documents(lines, {})) == found

    def test_a_column_map_says_where_text_and_title_stand(self, tmp_path: Path) -> None:
        corpus = tmp_path / "corpus.json"
        corpus.write_text(
            json.dumps([{"post": {"md": "words"}, "head": "T", "text": "not this"}]), encoding="utf-8"
        )
        [document] = file_documents(corpus, {"text": "post.md", "title": "head"})
        assert (document.title, document.text) == ("T", "words")

    def test_a_corpus_without_any_text_names_the_option_to_set(self, tmp_path: Path) -> None:
        corpus = tmp_path / "corpus.json"
        corpus.write_text('[{"story": "words"}]', encoding="utf-8")
        with pytest.raises(InvalidInputError, match="--columns"):
            list(file_documents(corpus, {}))

    @pytest.mark.parametrize("content", ["[1,", "{"])
    def test_a_broken_corpus_says_what_was_expected(self, tmp_path: Path, content: str) -> None:
        corpus = tmp_path / "corpus.json"
        corpus.write_text(content, encoding="utf-8")
        with pytest.raises(InvalidInputError, match="JSON array, or JSON Lines"):
            list(file_documents(corpus, {}))

    def test_a_copy_keeps_its_lines_and_words_and_is_new_to_every_cache(self) -> None:
        original = next(site_documents())
        copy = shuffled(original, 1)
        pairs = list(zip(original.text.split("\n"), copy.text.split("\n"), strict=True))
        assert all(Counter(a.split()) == Counter(b.split()) for a, b in pairs)
        assert copy == shuffled(original, 1)
        assert copy.id != original.id
        assert copy.content_hash != original.content_hash
        rows = [(d.id, sign(d.text), None) for d in (original, copy, shuffled(original, 2))]
        assert group(iter(sorted(rows)), 0.8) == {}

    def test_scaling_multiplies_the_documents(self) -> None:
        originals = documents(None, {})
        scaled = documents(None, {}, 3)
        assert scaled[: len(originals)] == originals
        assert len({d.id for d in scaled}) == 3 * len(originals)

    def test_made_up_documents_are_the_same_each_time_and_differ_from_each_other(self) -> None:
        first = list(made_up_documents(5, parts=2))
        assert first == list(made_up_documents(5, parts=2))
        assert len({d.text for d in first}) == len({d.id for d in first}) == 5


def test_the_threshold_that_separates_lies_between_the_two_kinds() -> None:
    apart = separation([0.5, 0.6, 0.7], [0.1, 0.2, 0.3])
    assert apart["balanced_accuracy"] == 1
    assert 0.3 < apart["threshold"] < 0.5
    mixed = separation([0.2, 0.6], [0.1, 0.4])
    assert mixed["balanced_accuracy"] == 0.75
