"""Heads: learned, calibrated, kept, refused where they do not fit; labels, and what people corrected."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from llm_engineering.application.analysis.analyse import AnalysisStores, Deciders, analyse_records
from llm_engineering.application.analysis.config import HeadTraining
from llm_engineering.application.analysis.heads import (
    HeadFolder,
    LinearHead,
    TextEmbedder,
    choose_threshold,
    fit_temperature,
    load_head,
)
from llm_engineering.application.evaluation.heads import HeadVerdict, learn_head
from llm_engineering.application.training.heads.labels import FoundLabels, collect_labels, compute_alpha
from llm_engineering.application.training.heads.train import Label
from llm_engineering.domain.analyses import AnalysisSpec
from llm_engineering.domain.errors import (
    ConfigurationError,
    InvalidInputError,
    ModelFileError,
)
from llm_engineering.domain.inference import Feedback, Subject
from llm_engineering.infrastructure.training.heads import LogisticLearner
from tests.fakes.embedder import HashEmbedder
from tests.fakes.llm import ScriptedLanguageModel
from tests.fakes.warehouse import FakeWarehouse
from tests.unit.test_analyses import ticket

pytest.importorskip("sklearn")

WORDS = {
    "lamp": "lamp bulb light shade bright dark switch glow".split(),
    "sound": "music loud quiet speaker bass tune volume noise".split(),
    "water": "kettle boil steam leak cup tea hot pour".split(),
}
SPEC = AnalysisSpec.model_validate(
    {
        "task": "topics",
        "engine": "head",
        "fields": {
            "topic": {"kind": "class", "values": list(WORDS)},
            "day": {"kind": "entities", "pattern": "date"},
        },
    }
)
[TOPIC] = SPEC.head_fields


def labels(each: int = 20, seed: int = 0) -> FoundLabels:
    chance = np.random.default_rng(seed)
    made = [
        Label(f"{' '.join(chance.choice(words, 4))} {number}", topic, f"{topic}{number}")
        for topic, words in WORDS.items()
        for number in range(each)
    ]
    return FoundLabels(tuple(made), {"files": len(made)}, None)


def learn(folder: Path, found: FoundLabels | None = None, **config: float) -> HeadVerdict:
    training = HeadTraining.model_validate(config)
    embedder = TextEmbedder(HashEmbedder())
    return learn_head(
        "topics", TOPIC, found or labels(), training, LogisticLearner(), embedder, HeadFolder(folder)
    )


class TestLearning:
    def test_a_head_tells_what_it_was_taught_on_texts_it_has_not_seen(self, tmp_path: Path) -> None:
        verdict = learn(tmp_path)
        assert verdict.promoted
        assert verdict.held_out.accuracy.mean > 0.9
        assert verdict.trained.learned_from + verdict.held_out.items == 60
        head = HeadFolder(tmp_path).find("topics", "topic")
        vectors = HashEmbedder().embed_queries(["a bright lamp with a switch", "boil tea in the kettle"])
        assert [one.label for one in head.decide(vectors)] == ["lamp", "water"]
        assert np.allclose(head.compute_probabilities(vectors).sum(axis=1), 1)

    def test_a_file_gives_the_head_back(self, tmp_path: Path) -> None:
        head = learn(tmp_path).trained.head
        kept = load_head(tmp_path / "topics" / "topic" / f"{head.digest}.npz")
        assert (kept.labels, kept.threshold, kept.digest) == (head.labels, head.threshold, head.digest)

    def test_groups_stay_on_one_side(self) -> None:
        topics = [topic for topic in WORDS for _ in range(20)]
        groups = [f"client {number % 8}" for number in range(60)]
        folds = LogisticLearner().assign_folds(topics, groups, 4, 0)
        assert len(set(folds)) == 4
        sides: dict[str, set[int]] = {}
        for group, fold in zip(groups, folds, strict=True):
            sides.setdefault(group, set()).add(fold)
        assert {len(found) for found in sides.values()} == {1}

    def test_two_classes_are_a_head_too(self, tmp_path: Path) -> None:
        two = FoundLabels(tuple(one for one in labels().labels if one.value != "water"), {}, None)
        verdict = learn(tmp_path, two)
        assert verdict.trained.head.labels == ("lamp", "sound")
        assert verdict.trained.left_out == {"water": 0}
        assert verdict.held_out.accuracy.mean > 0.9

    def test_one_class_alone_is_refused(self, tmp_path: Path) -> None:
        one = FoundLabels(tuple(label for label in labels().labels if label.value == "lamp"), {}, None)
        with pytest.raises(InvalidInputError, match="1 classes"):
            learn(tmp_path, one)
        with pytest.raises(InvalidInputError, match="0 classes"):
            learn(tmp_path, FoundLabels((), {}, None))

    def test_a_worse_head_does_not_go_into_use(self, tmp_path: Path) -> None:
        good = learn(tmp_path).trained.head
        found = labels().labels
        turned = dict(zip(WORDS, [*list(WORDS)[1:], "lamp"], strict=True))
        # Half of the labels are wrong: the new head is worse on its own held-out labels' right half.
        mixed = [
            Label(one.text, turned[one.value] if place % 2 else one.value, one.group)
            for place, one in enumerate(found)
        ]
        verdict = learn(tmp_path, FoundLabels(tuple(mixed), {}, None), max_drop=0.0)
        assert verdict.difference is not None
        if not verdict.promoted:
            assert HeadFolder(tmp_path).find("topics", "topic").digest == good.digest
        assert verdict.promoted == (verdict.difference.low >= 0)


class TestCalibration:
    def test_the_threshold_is_the_lowest_with_the_accuracy_asked_for(self) -> None:
        confidence = np.array([0.9, 0.8, 0.7, 0.6])
        assert choose_threshold(confidence, np.array([True, True, False, True]), 0.75) == 0.6
        assert choose_threshold(confidence, np.array([True, True, False, False]), 0.9) == 0.8
        assert choose_threshold(confidence, np.array([False, True, True, True]), 0.9) > 0.9

    def test_a_boastful_head_gets_a_higher_temperature(self) -> None:
        logits = np.array([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 0.0]], dtype=np.float32)
        assert fit_temperature(logits, np.array([0, 0, 1, 1])) > 1

    def test_below_the_threshold_it_does_not_decide(self) -> None:
        head = LinearHead(
            ("a", "b"), np.eye(2, dtype=np.float32), np.zeros(2, dtype=np.float32), "e", 1.0, 0.8
        )
        sure, unsure = head.decide(np.array([[3.0, 0.0], [0.1, 0.0]]))
        assert (sure.label, sure.sure, unsure.sure) == ("a", True, False)


class TestRefusals:
    def test_a_missing_or_broken_file_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match="run-head-training-pipeline"):
            HeadFolder(tmp_path).find("topics", "topic")
        broken = tmp_path / "x.npz"
        broken.write_bytes(b"PK\x03\x04 no archive")
        with pytest.raises(ModelFileError, match="Train it again"):
            load_head(broken)

    @pytest.mark.parametrize(
        ("weights", "bias"), [((3, 2), (2,)), ((3, 3), (2,)), ((3, 3), (3, 1)), ((3,), (3,))]
    )
    def test_a_head_of_another_shape_than_its_labels_is_refused(
        self, tmp_path: Path, weights: tuple[int, ...], bias: tuple[int, ...]
    ) -> None:
        head = LinearHead(
            ("a", "b", "c"), np.zeros(weights, dtype=np.float32), np.zeros(bias, dtype=np.float32), "e"
        )
        head.save(tmp_path / "x.npz")
        with pytest.raises(ModelFileError, match="another shape"):
            load_head(tmp_path / "x.npz")

    async def test_a_head_of_another_embedder_is_refused(self, tmp_path: Path) -> None:
        learn(tmp_path)
        with pytest.raises(ModelFileError, match="another embedder"):
            await run_over(FakeWarehouse(), tmp_path, SPEC, embedder=HashEmbedder(model="other"))

    async def test_a_head_with_classes_that_the_spec_lacks_is_refused(self, tmp_path: Path) -> None:
        learn(tmp_path)
        fewer = SPEC.model_copy(update={"fields": (TOPIC.model_copy(update={"values": ("lamp", "sound")}),)})
        with pytest.raises(ConfigurationError, match="water"):
            await run_over(FakeWarehouse(), tmp_path, fewer)


async def run_over(
    warehouse: FakeWarehouse,
    folder: Path,
    spec: AnalysisSpec,
    *,
    embedder: HashEmbedder | None = None,
    model: ScriptedLanguageModel | None = None,
) -> None:
    stores = AnalysisStores(
        warehouse.clean, warehouse.analyses, warehouse.generations, warehouse.dead_letters
    )
    known = TextEmbedder(embedder or HashEmbedder(), warehouse.embeddings)
    await analyse_records(spec, stores, Deciders(model, HeadFolder(folder), known))


class TestEngines:
    async def test_a_head_decides_and_rules_find_without_a_model(self, tmp_path: Path) -> None:
        learn(tmp_path, left_open=0.0)
        warehouse = FakeWarehouse()
        warehouse.clean.upsert([ticket(1, "The lamp has a dark bulb and a loose switch since 5 May 2026.")])
        await run_over(warehouse, tmp_path, SPEC)
        [result] = warehouse.analyses.stream()
        assert result.list_values("topic") == ["lamp"]
        assert result.list_values("day") == ["5 May 2026"]
        assert result.findings[0].confidence is not None

    async def test_the_model_is_asked_only_where_the_head_is_unsure(self, tmp_path: Path) -> None:
        learn(tmp_path, least_accuracy=1.0)
        head = HeadFolder(tmp_path).find("topics", "topic")
        folder = HeadFolder(tmp_path)
        texts = ["lamp bulb light switch glow", "entirely unheard words about parliament"]
        warm = LinearHead(head.labels, head.weights, head.bias, head.embedder, temperature=2.0)
        known, strange = (one.probability for one in warm.decide(HashEmbedder().embed_queries(texts)))
        assert known > strange
        strict = replace(warm, threshold=(known + strange) / 2)
        folder.save("topics", "topic", strict)
        folder.promote("topics", "topic", strict.digest)
        warehouse = FakeWarehouse()
        warehouse.clean.upsert([ticket(1, texts[0]), ticket(2, texts[1])])
        said = '{"topic": {"value": "sound", "quotes": ["unheard words"]}}'
        model = ScriptedLanguageModel(default=said)
        spec = AnalysisSpec.model_validate({**SPEC.model_dump(), "engine": "head_then_llm"})
        await run_over(warehouse, tmp_path, spec, model=model)
        found = {one.key: one.findings[0] for one in warehouse.analyses.stream()}
        assert len(model.calls) == 1
        assert (found[ticket(1).id].made_by, found[ticket(1).id].value) == ("head", "lamp")
        assert (found[ticket(2).id].made_by, found[ticket(2).id].value) == ("llm", "sound")

    async def test_a_new_head_makes_old_results_stale(self, tmp_path: Path) -> None:
        learn(tmp_path)
        warehouse = FakeWarehouse()
        warehouse.clean.upsert([ticket(1, "lamp bulb")])
        await run_over(warehouse, tmp_path, SPEC)
        [first] = warehouse.analyses.stream()
        learn(tmp_path, labels(40, seed=3), max_drop=1.0)
        await run_over(warehouse, tmp_path, SPEC)
        [second] = warehouse.analyses.stream()
        assert first.id != second.id


class TestLabels:
    def said(self, voter: str, topic: str, minute: int, document: str) -> Feedback:
        return Feedback(
            subject=Subject(kind="analysis", id=f"a{minute}"),
            correction={"topic": topic},
            task="topics",
            document_ids=(document,),
            voter=voter,
            created_at=datetime(2026, 5, 4, tzinfo=UTC) + timedelta(minutes=minute),
        )

    def test_corrections_count_before_metadata_and_the_latest_of_each_person(self, tmp_path: Path) -> None:
        warehouse = FakeWarehouse()
        rows = [
            ticket(number, f"text {number}", metadata={"topic": "lamp", "client": "c1"})
            for number in range(3)
        ]
        warehouse.clean.upsert([*rows, ticket(9, "without a label")])
        for voter, topic, minute in (
            ("ann", "water", 1),
            ("ann", "sound", 2),
            ("ben", "sound", 3),
            ("cy", "lamp", 4),
        ):
            warehouse.feedback.vote(self.said(voter, topic, minute, rows[0].id))
        file = tmp_path / "more.csv"
        file.write_text("text,topic\ntext 1,water\nnew,water\nodd,nothing\n", encoding="utf-8")
        found = collect_labels(SPEC, TOPIC, HeadTraining(files=(file,), group_by="client"), warehouse)
        assert {one.text: one.value for one in found.labels} == {
            "text 0": "sound",
            "text 1": "lamp",
            "text 2": "lamp",
            "new": "water",
        }
        assert found.labels[0].group == "client:c1"
        assert found.counts["corrections"] == 1
        assert found.counts["left out: not a value of topic"] == 1
        assert found.agreement is not None

    def test_near_duplicates_of_two_clients_are_one_group(self) -> None:
        warehouse = FakeWarehouse()
        rows = [
            ticket(number, f"text {number}", metadata={"topic": "lamp", "client": f"c{number}"})
            for number in range(3)
        ]
        pair = [row.model_copy(update={"duplicate_group": rows[0].id}) for row in rows[:2]]
        warehouse.clean.upsert([*pair, rows[2]])
        found = collect_labels(SPEC, TOPIC, HeadTraining(group_by="client"), warehouse)
        assert {one.text: one.group for one in found.labels} == {
            "text 0": "client:c0",
            "text 1": "client:c0",
            "text 2": "client:c2",
        }

    def test_every_correction_is_one_more_label(self) -> None:
        warehouse = FakeWarehouse()
        rows = [ticket(number, f"text {number}") for number in range(50)]
        warehouse.clean.upsert(rows)
        before = collect_labels(SPEC, TOPIC, HeadTraining(), warehouse)
        for place, row in enumerate(rows):
            warehouse.feedback.vote(self.said("ann", list(WORDS)[place % 3], place, row.id))
        after = collect_labels(SPEC, TOPIC, HeadTraining(), warehouse)
        assert len(after.labels) - len(before.labels) == 50

    def test_a_file_without_the_column_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "labels.jsonl"
        file.write_text('{"text": "a"}\n', encoding="utf-8")
        with pytest.raises(InvalidInputError, match="row 1"):
            collect_labels(SPEC, TOPIC, HeadTraining(files=(file,)), FakeWarehouse())

    def test_alpha_is_one_for_agreement_and_none_without_pairs(self) -> None:
        assert compute_alpha([["a", "a"], ["b", "b"]]) == 1
        assert compute_alpha([["a"], ["b"]]) is None
        # Krippendorff's own example of two observers, ten articles: alpha 0.095.
        pairs = zip("0100000001", "1110010000", strict=True)
        assert compute_alpha([list(pair) for pair in pairs]) == pytest.approx(0.095, abs=0.001)
