"""The sample of reviews is what its maker makes, and says of itself what is true."""

import json
from collections import Counter

from benchmarks.review_sample import SAMPLES, make_sample


def test_the_files_are_what_the_maker_makes() -> None:
    rows, truth = make_sample()
    kept = [json.loads(line) for line in (SAMPLES / "reviews.jsonl").read_text("utf-8").splitlines()]
    assert kept == rows
    assert json.loads((SAMPLES / "reviews_truth.json").read_text("utf-8")) == truth


def test_the_truth_covers_every_review() -> None:
    rows, truth = make_sample()
    known = {row["id"]: row for row in rows if row["id"] not in truth["broken"]}
    assert set(truth["reviews"]) == set(known)
    assert Counter(len(truth[kind]) for kind in ("copy", "spam", "sarcasm")) == {40: 1, 5: 1, 8: 1}
    for name, product in truth["products"].items():
        counted = {
            review for sides in product["aspects"].values() for ids in sides.values() for review in ids
        }
        assert len(counted) == product["reviews"]
        assert {known[review]["product"] for review in counted} == {name}
    for review, texts in truth["personal_data"].items():
        assert all(text in known[review]["review"] for text in texts)
