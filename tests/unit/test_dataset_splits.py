"""Splits by document and what may leak between them; the lint over preference pairs."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.application.training.datasets.config import (
    DecontaminationConfig,
    LengthBias,
    QualityConfig,
    SplitShares,
)
from llm_engineering.application.training.datasets.curate import curate, gates_of
from llm_engineering.application.training.datasets.decontamination import (
    Decontamination,
    Protected,
    protect_samples,
    read_protected,
)
from llm_engineering.application.training.datasets.gates import run_gates
from llm_engineering.application.training.datasets.preference_lint import (
    bound_length_bias,
    cliffs_delta,
    cohens_d,
    lint,
)
from llm_engineering.application.training.datasets.splits import assign, split_by_document
from llm_engineering.application.training.groups import join_groups
from llm_engineering.domain.datasets import PreferenceSample, Split
from llm_engineering.domain.errors import InvalidInputError
from tests.unit.dataset_samples import document, instruct, preference, prose

SHARES = SplitShares()
UNITS = st.sets(st.text(min_size=1, max_size=8), min_size=3, max_size=60)


# --- splits ---------------------------------------------------------------------------------------------------------


def test_units_that_share_any_name_are_one_group() -> None:
    units = {
        "a": ["client:1", "dup:7"],
        "b": ["dup:7"],
        "c": ["client:2", "dup:7"],
        "d": ["d"],
        "e": ["client:2"],
    }
    joined = join_groups({**units, "f": ["client:3"]})
    assert joined == {**dict.fromkeys("abce", "client:1"), "d": "d", "f": "client:3"}


def test_near_duplicates_of_two_clients_stay_together() -> None:
    documents = [document(prose(number), f"d{number}") for number in range(40)]
    groups = {one.id: f"dup{place // 2}" for place, one in enumerate(documents)}
    samples = []
    for number, one in enumerate(documents):
        sample = instruct(f"What of {number}?", of=one)
        named = f"client:{(number + 1) // 2}" if number < 6 else ""
        samples.append(
            sample.model_copy(update={"origin": sample.origin.model_copy(update={"group": named})})
        )
    splits = split_by_document(samples, groups, SHARES, seed=1)
    where = {one.origin.document_id: split for split, found in splits.items() for one in found}
    assert len({where[one.id] for one in documents[:6]}) == 1
    pairs = zip(documents[::2], documents[1::2], strict=True)
    assert all(where[one.id] == where[two.id] for one, two in pairs)


def test_no_document_and_no_group_is_in_two_splits() -> None:
    documents = [document(prose(i), f"d{i}") for i in range(80)]
    groups = {d.id: documents[i - i % 4].id for i, d in enumerate(documents)}  # four near-duplicates each
    samples = [instruct(f"Question {i}?", of=d) for d in documents for i in range(3)]
    splits = split_by_document(samples, groups, SHARES, seed=1)
    assert sum(map(len, splits.values())) == len(samples)
    assert all(sample.split is split for split, part in splits.items() for sample in part)
    where: dict[str | None, set[Split]] = {}
    for split, part in splits.items():
        for sample in part:
            where.setdefault(groups[sample.origin.document_id], set()).add(split)
    assert all(len(found) == 1 for found in where.values())
    assert all(splits.values())


def test_shares_are_nearly_kept_and_the_seed_decides() -> None:
    units = {f"document {i}" for i in range(2_000)}
    places = assign(units, SHARES, seed=0)
    assert list(places.values()).count(Split.TRAIN) == pytest.approx(1_600, abs=60)
    assert list(places.values()).count(Split.TEST) == pytest.approx(200, abs=50)
    assert assign(units, SHARES, seed=0) == places
    assert assign(units, SHARES, seed=1) != places


@settings(deadline=None)
@given(UNITS, UNITS)
def test_a_document_stays_where_it_is_when_others_are_added(first: set[str], others: set[str]) -> None:
    before, after = assign(first, SHARES, 0), assign(first | others, SHARES, 0)
    assert set(before.values()) == set(Split)
    moved = [unit for unit in first if before[unit] is not after[unit]]
    # Only those that had filled an empty split, two at the most, or that fill one now.
    assert len(moved) <= 2


def test_too_few_documents_are_refused_with_what_to_do() -> None:
    samples = [instruct(of=document(prose(i), f"d{i}")) for i in range(2)]
    with pytest.raises(InvalidInputError, match=r"2 document.*Collect more.*share to 0"):
        split_by_document(samples, {}, SHARES, 0)
    alone = split_by_document(samples, {}, SplitShares(train=1, validation=0, test=0), 0)
    assert len(alone[Split.TRAIN]) == 2
    assert split_by_document([], {}, SHARES, 0) == {split: [] for split in Split}


def test_data_sets_of_one_warehouse_are_split_alike() -> None:
    every = [document(prose(i), f"d{i}") for i in range(9)]
    for seed in range(20):
        one = split_by_document([instruct(of=d) for d in every[:8]], {}, SHARES, seed, [d.id for d in every])
        other = split_by_document([instruct(of=d) for d in every], {}, SHARES, seed, [d.id for d in every])
        places = {s.origin.document_id: s.split for part in other.values() for s in part}
        if places[every[8].id] is Split.TRAIN:  # no split lost its only document
            assert all(places[s.origin.document_id] is s.split for part in one.values() for s in part)
        assert all(one.values())


# --- decontamination -------------------------------------------------------------------------------------------------


def leak(source: str, chance: random.Random, share: float) -> str:
    """A part of a text, in foreign words, with a few words changed."""
    words = source.split()
    count = max(12, int(len(words) * share))
    start = chance.randrange(len(words) - count + 1)
    part = words[start : start + count]
    part[chance.randrange(len(part))] = "changed"
    return f"{prose(chance.randrange(10**6) + 10_000, 60)} {' '.join(part)} {prose(chance.randrange(10**6) + 10**7, 60)}"


@pytest.mark.parametrize(("part", "least_recall"), [(0.8, 1.0), (0.5, 1.0), (0.25, 0.95)])
def test_planted_leaks_are_found_and_clean_samples_stay(part: float, least_recall: float) -> None:
    chance = random.Random(7)
    test = [instruct(f"Tell of {i}", prose(i, 100)) for i in range(100)]
    clean = [instruct(f"Speak of {i}", prose(5_000 + i, 150)) for i in range(200)]
    leaks = [instruct(f"Say {i}", leak(test[i].answer, chance, part)) for i in range(100)]
    gate = Decontamination(protect_samples(test, "test"), DecontaminationConfig(), "split_overlap")
    gated = run_gates([*clean, *leaks], [gate])
    recall = sum(item.sample in leaks for item in gated.dropped) / len(leaks)
    assert recall >= least_recall
    assert all(item.sample in leaks for item in gated.dropped)  # precision 1 on texts that share nothing
    assert gated.counts[0].reasons == {"overlaps with test": len(gated.dropped)}


def test_n_and_share_decide_what_a_leak_is() -> None:
    kept = "one two three four five six seven eight nine ten eleven twelve"
    text = "one two three four five six seven 8 nine ten eleven twelve"

    def found(words: int, share: float) -> bool:
        config = DecontaminationConfig(words=words, share=share)
        return Decontamination([Protected("test", kept)], config, "x").source_of(text) is not None

    assert found(4, 0.5)
    assert not found(4, 0.9)
    assert not found(8, 0.1)


def test_prompts_leak_only_where_they_are_the_same() -> None:
    asked = "Write in the author's words, as a passage of an article, about: gardens"
    gate = Decontamination(protect_samples([instruct(asked, prose(1))], "test"), DecontaminationConfig(), "x")
    other = asked.replace("gardens", "rivers")
    assert sorted(gate([instruct(asked.upper(), prose(2)), instruct(other, prose(3))])) == [0]


def test_nothing_protected_drops_nothing() -> None:
    assert Decontamination([], DecontaminationConfig(), "x")([instruct()]) == {}


def test_an_evaluation_file_is_read_in_three_forms(tmp_path: Path) -> None:
    lines = tmp_path / "q.jsonl"
    lines.write_text('{"question": "Why so?", "answer": "So."}\n\n"a text"\n', encoding="utf-8")
    assert [p.text for p in read_protected(lines)] == ["Why so?", "So.", "a text"]
    array = tmp_path / "q.json"
    array.write_text(json.dumps([{"text": "one"}, "two"]), encoding="utf-8")
    assert [(p.source, p.text) for p in read_protected(array)] == [("q.json", "one"), ("q.json", "two")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question": "q"}\n{"id": 3}\n', "line 2: expected a string, or an object"),
        ('{"question": "q"}\n{oops\n', "line 2 is no JSON"),
        ("[1, 2", "is no JSON array"),
        ("7\n", "line 1: expected a string"),
    ],
)
def test_a_bad_evaluation_file_names_the_place(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidInputError, match=message):
        read_protected(file)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_protected(tmp_path / "missing.jsonl")


# --- lint of preference pairs ----------------------------------------------------------------------------------------


def pairs(lengths: list[tuple[int, int]]) -> list[PreferenceSample]:
    return [preference(f"Question {i}?", "c" * one, "r" * other) for i, (one, other) in enumerate(lengths)]


def test_effect_sizes_against_worked_examples() -> None:
    # Differences of means 2, both variances 2.5: d = 2 / sqrt(2.5).
    one, other = np.array([3.0, 4, 5, 6, 7]), np.array([1.0, 2, 3, 4, 5])
    assert cohens_d(one, other) == pytest.approx(2 / 2.5**0.5)
    assert cohens_d(one[:1], other) == 0
    assert cohens_d(np.full(3, 2.0), np.full(3, 1.0)) == float("inf")
    every = [float(np.sign(a - b)) for a in one for b in other]
    assert cliffs_delta(one, other) == pytest.approx(sum(every) / 25)
    assert cliffs_delta(one[:0], other) == 0


def test_lint_counts_identical_and_leaking_pairs() -> None:
    found = lint(
        [
            preference("What do I think of the garden?", "It is full.", "It *is* full"),
            preference(
                "What do I think of the garden?", "It is full.", "What do I think of the garden? Much."
            ),
            preference("What do I think of the garden?", "It is full of beds.", "No."),
        ]
    )
    assert (found.pairs, found.identical, found.leaking) == (3, 1, 1)
    # One longer, one shorter, and one shorter by a mark of Markdown.
    assert found.share_longer == pytest.approx(1 / 3)
    assert lint([]).share_longer == 0.5


UNEQUAL = [(300, 100)] * 40 + [(250, 200)] * 40 + [(100, 140)] * 20


def test_the_most_unequal_pairs_are_left_out_until_the_bounds_hold() -> None:
    before = pairs(UNEQUAL)
    bounds = LengthBias()
    assert lint(before).exceeds(bounds)
    kept, dropped = bound_length_bias(before, bounds, seed=3)
    assert len(kept) + len(dropped) == len(before)
    assert not lint(kept).exceeds(bounds)
    assert {len(item.sample.chosen) for item in dropped[:40]} == {300}
    assert bound_length_bias(before, bounds, seed=3) == (kept, dropped)
    assert bound_length_bias(kept, bounds, seed=3) == (kept, [])


def test_the_seed_decides_among_equally_unequal_pairs() -> None:
    before = pairs([(200, 100)] * 60 + [(100, 200)] * 20)
    first, _ = bound_length_bias(before, LengthBias(), seed=1)
    second, _ = bound_length_bias(before, LengthBias(), seed=2)
    assert len(first) == len(second)
    assert first != second


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=60), st.integers(0, 3)
)
def test_bounds_hold_or_it_is_an_error(lengths: list[tuple[int, int]], seed: int) -> None:
    before = pairs(lengths)
    try:
        kept, dropped = bound_length_bias(before, LengthBias(), seed)
    except InvalidInputError:
        assert lint(before).exceeds(LengthBias())
        return
    assert not lint(kept).exceeds(LengthBias())
    assert len(kept) + len(dropped) == len(before)


def test_bounds_that_cannot_hold_are_an_error_that_says_what_to_do() -> None:
    always = pairs([(300, 30)] * 50)
    with pytest.raises(InvalidInputError, match=r"100% of 50 pairs.*does not help.*like length"):
        bound_length_bias(always, LengthBias(), 0)
    with pytest.raises(InvalidInputError, match=r"length_bias\.on_exceed"):
        bound_length_bias(pairs(UNEQUAL), LengthBias(on_exceed="error"), 0)
    assert bound_length_bias(always, LengthBias(on_exceed="report"), 0) == (always, [])


# --- all of it -------------------------------------------------------------------------------------------------------


def test_curated_is_disjoint_clean_and_complete() -> None:
    documents = {d.id: d for d in (document(prose(i), f"d{i}") for i in range(30))}
    made = [instruct(f"What of number {i}?", of=d) for i, d in enumerate(documents.values())]
    twins = {d.id: d for d in (document(prose(i) + " So there.", f"twin {i}") for i in range(5))}
    copied = [instruct("And this one, where?", of=d) for d in twins.values()]
    foreign = [instruct("Who leaked?", prose(900), document(prose(900), "e"), made_by="model")]
    samples = [*made, *copied, *foreign]
    config = QualityConfig()
    result = curate(
        samples,
        gates_of(config, documents | twins),
        config,
        groups={},
        protected=[Protected("questions.jsonl", prose(900))],
        seed=0,
    )
    assert result.made == len(result.kept) + len(result.dropped) == 36
    by_gate = {count.gate: count.dropped for count in result.counts}
    assert by_gate["near_duplicates"] == 5
    assert by_gate["evaluation_overlap"] == 1
    assert result.lint_before is None
    assert {sample.split for sample in result.kept} == set(Split)


def test_text_shared_by_documents_leaves_the_training_set() -> None:
    shared = prose(77, 72)
    documents = [document(f"{shared} {prose(i, 80)}", f"d{i}") for i in range(12)]
    config = QualityConfig(gates=("format",))
    samples = [instruct(f"What of {i}?", of=d) for i, d in enumerate(documents)]
    result = curate(samples, gates_of(config, {}), config, groups={}, seed=0)
    assert result.splits[Split.TEST]
    assert result.counts[-1].gate == "split_overlap"
    # All share half of their text, so only the test set can stay.
    assert not result.splits[Split.TRAIN]
    assert result.counts[-1].dropped == 12 - len(result.splits[Split.TEST])


def test_curated_preference_pairs_carry_both_lints() -> None:
    documents = {d.id: d for d in (document(prose(i, 60 + i), f"d{i}") for i in range(40))}
    samples = [
        preference(f"What of {i}?", rejected=prose(500 + i, 96 if i % 3 else 40), of=d)
        for i, d in enumerate(documents.values())
    ]
    config = QualityConfig()
    result = curate(samples, gates_of(config, documents), config, groups={}, seed=0)
    assert result.lint_before is not None
    assert result.lint_after is not None
    assert result.lint_before.pairs >= result.lint_after.pairs
    assert "length_bias" in {count.gate for count in result.counts}
    assert result.made == len(result.kept) + len(result.dropped)


def test_held_out_parts_of_other_data_sets_leave_the_training_split_alone() -> None:
    documents = [document(prose(i), f"d{i}") for i in range(20)]
    config = QualityConfig(gates=())
    samples = [instruct(f"What of {i}?", of=d) for i, d in enumerate(documents)]
    other = list(protect_samples(samples, "preference/test"))
    result = curate(samples, [], config, groups={}, held_out=other, seed=0)
    assert not result.splits[Split.TRAIN]
    assert result.splits[Split.TEST]
    assert "overlaps with preference/test" in result.counts[-1].reasons


def test_nothing_in_nothing_out() -> None:
    config = QualityConfig()
    result = curate([], gates_of(config, {}), config, groups={}, seed=0)
    assert not result.kept
    assert not result.dropped
