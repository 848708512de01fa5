"""Near-duplicates: signatures estimate likeness, groups do not depend on order."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.application.text.minhash import PERMUTATIONS, estimate_jaccard, group, sign

WORDS = [f"word{i}" for i in range(3_000)]


def text(seed: int, words: int = 300) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def without(original: str, start: int, count: int) -> str:
    words = original.split()
    return " ".join(words[:start] + words[start + count :])


def shingles(of: str) -> set[tuple[str, ...]]:
    words = of.split()
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


@pytest.mark.parametrize("removed", [0, 15, 30, 60, 120, 200])
def test_similarity_estimates_the_share_of_common_shingles(removed: int) -> None:
    errors = []
    for seed in range(12):
        one, other = text(seed), without(text(seed), 40, removed)
        a, b = shingles(one), shingles(other)
        errors.append(estimate_jaccard(sign(one), sign(other)) - len(a & b) / len(a | b))
    assert abs(sum(errors) / len(errors)) < 0.04
    assert max(map(abs, errors)) < 0.18  # four standard errors


def test_a_signature_is_128_values_and_stays_the_same() -> None:
    value = sign(text(1))
    assert len(value) == 4 * PERMUTATIONS
    # Signatures are stored: if this changes, CLEANING_VERSION must be raised.
    assert value[:8].hex() == "a07823015d376900"


def test_case_and_punctuation_do_not_matter() -> None:
    plain = text(2)
    assert sign(plain.upper().replace(" ", ",  ")) == sign(plain)


@pytest.mark.parametrize("words", [0, 1, 49])
def test_short_texts_are_not_compared(words: int) -> None:
    assert sign(text(3, words)) == b""
    assert group([("a", b"", None), ("b", b"", None)]) == {}


def test_near_duplicates_share_the_smallest_id() -> None:
    one, other = text(4), text(5)
    rows = [
        ("d", sign(one), None),
        ("b", sign(without(one, 100, 8)), None),
        ("c", sign(other), None),
        ("e", b"", None),
    ]
    assert group(rows) == {"b": "b", "d": "b"}


def test_groups_reach_through_common_members() -> None:
    first = text(6, 400)
    second, third = without(first, 10, 30), without(without(first, 10, 30), 300, 30)
    rows = [(name, sign(t), None) for name, t in (("a", first), ("b", second), ("c", third))]
    assert group(rows, threshold=0.85) == {"a": "a", "b": "a", "c": "a"}
    assert group([rows[0], rows[2]], threshold=0.85) == {}


def test_only_changes_are_returned() -> None:
    one = sign(text(7))
    rows = [
        ("a", one, "a"),
        ("b", one, "old"),
        ("c", sign(text(8)), "old"),
        ("d", b"", "old"),
        ("e", b"", None),
    ]
    assert group(rows) == {"b": "a", "c": None, "d": None}


def test_applying_the_changes_leaves_none() -> None:
    rows = [(f"{i:02}", sign(without(text(i % 4), i, 2)), "old" if i % 3 else None) for i in range(20)]
    changes = group(rows)
    assert changes
    assert group([(i, s, changes.get(i, g)) for i, s, g in rows]) == {}


ROWS = [(f"{i:02}", sign(without(text(i % 5), 7 * (i // 5), 6)), None) for i in range(25)] + [
    ("zz", b"", None)
]


@given(st.permutations(ROWS))
def test_groups_do_not_depend_on_order(rows: list[tuple[str, bytes, str | None]]) -> None:
    assert group(rows) == group(ROWS)


def test_each_family_is_one_group() -> None:
    assert set(group(ROWS).values()) == {"00", "01", "02", "03", "04"}


def test_nothing_to_compare() -> None:
    assert group([]) == {}
