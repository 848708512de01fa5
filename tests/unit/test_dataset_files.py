"""A data set's folder: what is written is read again; damage is named by file and line."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_engineering.application.llm.chat_templates import load_template
from llm_engineering.application.training.datasets import store as files
from llm_engineering.application.training.datasets.gates import Dropped
from llm_engineering.application.training.datasets.samples import Sample
from llm_engineering.application.training.datasets.store import (
    manifest_of,
    read_dataset,
    version_of,
    write_dataset,
)
from llm_engineering.application.training.finetune.data import open_dataset, read_instruct
from llm_engineering.domain.datasets import DatasetManifest, Split
from llm_engineering.domain.errors import InvalidInputError, StoreError
from tests.unit.dataset_samples import document, instruct, preference, prose

CHATML = load_template("chatml")


def splits(answer: str = "An answer.") -> dict[Split, list[Sample]]:
    return {
        split: [
            instruct(f"Question {i}, {split}?", answer, document(prose(i), f"{split}{i}"), split=split)
            for i in range(count)
        ]
        for split, count in ((Split.TRAIN, 3), (Split.VALIDATION, 1), (Split.TEST, 1))
    }


def manifest(of: dict[Split, list[Sample]], name: str = "ada") -> DatasetManifest:
    return manifest_of(
        "instruct",
        name,
        of,
        template=CHATML.name,
        template_hash=CHATML.hash,
        seed=3,
        config={"gates": ["format"]},
    )


def written(root: Path) -> Path:
    of = splits()
    dropped = [Dropped[Sample](instruct("Out?", "no"), "length", "answer too short")]
    return write_dataset(root, manifest(of), of, dropped, card="# Card\n", report="<p>")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1))
def test_what_is_written_is_read_again(tmp_path: Path, answer: str) -> None:
    of = splits(answer)
    folder = write_dataset(tmp_path, manifest(of), of, card="", report="")
    found = read_dataset(folder)
    assert {split: list(part) for split, part in found.splits.items()} == of
    assert found.manifest == manifest(of)


def test_the_folder_holds_what_training_reads_and_what_was_dropped(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert folder.parent == tmp_path / "ada"
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md",
        "dropped.jsonl",
        "manifest.json",
        "report.html",
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]
    [out] = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    assert (out["gate"], out["reason"], out["sample"]["answer"]) == ("length", "answer too short", "no")
    opened = open_dataset(folder, "instruct", "chatml")
    assert len(read_instruct(opened, Split.TRAIN)) == 3
    assert opened.manifest.documents == {"train": 3, "validation": 1, "test": 1}
    assert len(opened.manifest.document_hashes) == 5


def test_equal_content_has_an_equal_version() -> None:
    one, other = splits(), splits()
    other[Split.TRAIN].reverse()
    assert version_of(one) == version_of(other)
    assert version_of(splits("Another.")) != version_of(one)


def test_writing_again_replaces_the_folder_and_clears_what_a_killed_run_left(tmp_path: Path) -> None:
    folder = written(tmp_path)
    left = folder.with_name(f".part-{folder.name}-99")
    left.mkdir()
    (folder / "README.md").write_text("old")
    assert written(tmp_path) == folder
    assert (folder / "README.md").read_text() == "# Card\n"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_no_room_leaves_nothing_behind_and_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path)
    real = files._write

    def full(file: Path, lines: object) -> None:
        if file.name == "report.html":
            raise OSError(28, "No space left on device")
        real(file, lines)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "_write", full)
    with pytest.raises(StoreError, match=r"No space left on device\. Make room"):
        written(tmp_path)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert read_dataset(folder).manifest.counts[Split.TRAIN] == 3


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "train.jsonl",
            lambda text: text.replace('"instruction"', '"x"', 1),
            "line 1 is no sample.*instruction",
        ),
        ("train.jsonl", lambda text: text + "{not json\n", "line 4 is no sample"),
        ("train.jsonl", lambda text: text + "\n", "line 4 is no sample"),
        ("validation.jsonl", lambda _: "", "has 0 samples, the manifest says 1"),
        ("test.jsonl", lambda text: text.replace("An answer", "A reply"), "they were changed"),
        ("test.jsonl", lambda text: text.replace('"split": "test"', '"split": "train"'), "whose split is"),
        ("manifest.json", lambda text: text.replace('"kind"', '"king"'), "is damaged: kind"),
        ("manifest.json", lambda _: "", "is damaged"),
    ],
)
def test_damage_is_named(tmp_path: Path, file: str, change: object, message: str) -> None:
    folder = written(tmp_path)
    path = folder / file
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    with pytest.raises(InvalidInputError, match=message):
        read_dataset(folder)


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "test.jsonl").unlink()
    with pytest.raises(InvalidInputError, match=r"test\.jsonl cannot be read"):
        read_dataset(folder)
    with pytest.raises(InvalidInputError, match="holds no data set"):
        read_dataset(tmp_path / "nowhere")


def test_bytes_that_are_no_text_are_named_by_line(tmp_path: Path) -> None:
    folder = written(tmp_path)
    with (folder / "train.jsonl").open("ab") as stream:
        stream.write(b'{"instruction": "\xff\xfe"}\n')
    with pytest.raises(InvalidInputError, match="line 4 is no sample"):
        read_dataset(folder)


def test_a_manifest_refuses_what_does_not_belong() -> None:
    of = splits()
    with pytest.raises(InvalidInputError, match="cannot name a data set"):
        manifest(of, "../up")
    of[Split.TEST].append(of[Split.TRAIN][0].model_copy(update={"split": Split.TEST}))
    with pytest.raises(InvalidInputError, match="is in two splits"):
        manifest(of)
    with pytest.raises(InvalidInputError, match="stands a PreferenceSample"):
        manifest({Split.TRAIN: [preference(split=Split.TRAIN)]})
