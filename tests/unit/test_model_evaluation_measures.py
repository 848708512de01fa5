"""Measures of answers: style against an author, copying, repetition, and intervals over documents."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.application.evaluation.models.contrast import fit_contrast
from llm_engineering.application.evaluation.models.metrics import TrainingText, measure_repetition
from llm_engineering.application.evaluation.statistics import (
    DocumentBootstrap,
    exponential,
    pearson_correlation,
)
from llm_engineering.application.text.style import (
    burrows_delta,
    compute_auc,
    fit_style,
    gram_distance,
    gram_frequencies,
    logistic_regression,
    split_pieces,
    style_models,
    word_standard,
)
from llm_engineering.domain.errors import InvalidInputError

SHORT = "We measure it. Then we change one thing. It gets faster, or it does not, and we write down which.".split()
LONG = (
    "although one might, upon reflection, be inclined to suppose that the aforementioned considerations, however "
    "persuasive they may appear, are nevertheless insufficient whereas, moreover, the former would hardly suffice;"
).split()


def _writing(words: list[str], seed: int, count: int = 600) -> str:
    chosen = random.Random(seed)
    text = [chosen.choice(words) for _ in range(count)]
    return " ".join(word + "." if number % 9 == 8 else word for number, word in enumerate(text))


# --- style -------------------------------------------------------------------------------------------------------------


def test_a_text_is_nearest_to_the_profile_of_its_author() -> None:
    short, long = gram_frequencies([_writing(SHORT, 1)]), gram_frequencies([_writing(LONG, 2)])
    text = _writing(SHORT, 3, 80)
    assert gram_distance(text, short) < 0.5 * gram_distance(text, long)


def test_gram_distance_is_0_for_the_same_text_and_1_where_nothing_is_shared() -> None:
    assert gram_distance("same words here", gram_frequencies(["same words here"])) == 0
    assert (
        gram_distance("aaaa", gram_frequencies(["bbbb"])) > 0.7
    )  # the spaces at both ends are all they share
    assert gram_distance("", gram_frequencies(["bbbb"])) <= 1


def test_delta_is_burrows_formula() -> None:
    texts = ["a b a c", "a b b c", "c c a b"]
    standard = word_standard(texts)
    frequencies = {"a": (2, 1, 1), "b": (1, 2, 1), "c": (1, 1, 2)}
    z = {
        word: (np.array(counts) / 4 - np.mean(counts) / 4) / np.std(np.array(counts) / 4)
        for word, counts in frequencies.items()
    }
    expected = np.mean([abs(z[word][0] - z[word][1]) for word in "abc"])
    assert burrows_delta(texts[0], standard.compute_scores(texts[1]), standard) == pytest.approx(expected)
    assert burrows_delta(texts[0], standard.compute_scores(texts[0]), standard) == 0


def test_the_score_is_calibrated_on_text_by_the_author_and_by_others() -> None:
    model = fit_style("Ada", [_writing(SHORT, n) for n in range(4)], [_writing(LONG, n) for n in range(4)])
    assert model.calibration is not None
    assert model.calibration.auc == 1.0
    assert model.calibration.other_mean is not None
    assert model.calibration.same_mean > 0.8 > 0.2 > model.calibration.other_mean
    own, foreign = model.score(_writing(SHORT, 50, 120)), model.score(_writing(LONG, 51, 120))
    assert own is not None
    assert foreign is not None
    assert own.score > 0.8
    assert foreign.score < 0.2


def test_two_samples_of_one_author_are_not_told_apart() -> None:
    model = fit_style(
        "Ada", [_writing(SHORT, n) for n in range(6)], [_writing(SHORT, n + 50) for n in range(6)]
    )
    assert model.calibration is not None
    assert model.calibration.auc is not None
    # The author's pieces are held out, so that their profile does not know them any better than the others'.
    assert 0.25 < model.calibration.auc < 0.75


def test_text_like_nobodys_never_scores_as_the_authors_own_however_little_authors_differ() -> None:
    nobody = _writing(LONG, 3, 120)
    for seed in range(8):
        model = fit_style(
            "Ada",
            [_writing(SHORT, 100 * seed + n, 150) for n in range(6)],
            [_writing(SHORT, 100 * seed + n + 50, 150) for n in range(6)],
        )
        strange, own = model.score(nobody), model.score(_writing(SHORT, 999, 120))
        assert strange is not None
        assert own is not None
        assert strange.score <= own.score + 1e-9


def test_calibration_promises_nothing_where_there_is_little_text_and_no_difference() -> None:
    found = []
    for seed in range(12):
        model = fit_style(
            "Ada",
            [_writing(SHORT, 100 * seed + n, 300) for n in range(4)],
            [_writing(SHORT, 100 * seed + n + 50, 300) for n in range(4)],
        )
        assert model.calibration is not None
        assert model.calibration.auc is not None
        found.append(model.calibration.auc)
    assert 0.35 < np.mean(found) < 0.58  # held out, chance is told as chance


def test_without_others_the_score_is_the_rank_among_the_authors_own_text() -> None:
    model = fit_style("Ada", [_writing(SHORT, n) for n in range(4)], [])
    assert model.calibration is not None
    assert model.calibration.auc is None
    foreign, own = model.score(_writing(LONG, 9, 120)), model.score(_writing(SHORT, 10, 120))
    assert foreign is not None
    assert own is not None
    assert foreign.score == 0
    assert own.score > 0.2


def test_only_text_in_the_same_language_calibrates() -> None:
    texts = {
        ("Ada", "en"): [_writing(SHORT, n) for n in range(4)],
        ("Ben", "en"): [_writing(SHORT, n + 9) for n in range(4)],
        ("Ada", "de"): [_writing(LONG, n) for n in range(4)],
        ("Ben", "de"): ["Zu wenig."],
    }
    found = style_models(texts)
    assert set(found) == {("Ada", "en"), ("Ben", "en"), ("Ada", "de")}
    others = {voice: model.calibration.other for voice, model in found.items() if model.calibration}
    assert others["Ada", "de"] == 0
    assert others["Ada", "en"] > 0


def test_bland_text_is_not_the_authors_though_it_lies_nearer_to_their_profile() -> None:
    """What a distance to the author alone gets wrong: a text that is all averages lies nearer than their own does."""
    own = [_writing(SHORT[:10] if n % 2 else SHORT[10:], n) for n in range(6)]  # of two moods
    bland = [_writing([*SHORT, *LONG[:6]], 20 + n) for n in range(6)]
    mine, theirs = _writing(SHORT[:10], 50), _writing([*SHORT, *LONG[:6]], 51)
    alone, contrast = fit_style("Ada", own, []), fit_contrast(own, bland, piece=500)
    assert alone.score(theirs).delta < alone.score(mine).delta  # type: ignore[union-attr]
    assert contrast.auc > 0.9
    assert contrast.score(mine) > 0.6 > 0.4 > contrast.score(theirs)  # type: ignore[operator]
    assert contrast.score("Too short.") is None
    with pytest.raises(InvalidInputError, match="too few"):
        fit_contrast(own, ["A line."], piece=500)


def test_short_texts_have_no_style_score_and_little_writing_no_model() -> None:
    model = fit_style("Ada", [_writing(SHORT, n) for n in range(4)], [])
    assert model.score("Too short.") is None
    with pytest.raises(InvalidInputError, match="Ada cannot be learned"):
        fit_style("Ada", ["A line."], [])


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=3000), st.integers(50, 800))
def test_pieces_are_about_as_long_as_asked_and_lose_only_a_short_rest(text: str, size: int) -> None:
    found = split_pieces(text, size)
    assert all(len(piece) <= size * 1.25 + 1 for piece in found)
    assert sum(len("".join(piece.split())) for piece in found) >= len("".join(text.split())) - size


def test_logistic_regression_agrees_with_the_gradient_being_zero() -> None:
    chosen = np.random.default_rng(0)
    features = np.column_stack([chosen.normal(size=80), np.ones(80)])
    labels = (features[:, 0] + chosen.normal(size=80) > 0).astype(float)
    weights = logistic_regression(features, labels)
    found = 1 / (1 + np.exp(-features @ weights))
    balance = np.where(labels == 1, 1 / labels.sum(), 1 / (1 - labels).sum()) * 40
    gradient = features.T @ (balance * (labels - found)) - np.array([weights[0], 0.0])
    assert np.abs(gradient).max() < 1e-6


def test_auc_counts_ordered_pairs_and_ties_half() -> None:
    assert compute_auc(np.array([1.0, 0.5]), np.array([0.5, 0.0])) == pytest.approx(3.5 / 4)


# --- copying -----------------------------------------------------------------------------------------------------------

TRAINED = (
    "An index keeps vectors beside words, and a query asks both of them at once, every time it is asked."
)


def test_the_longest_copy_is_counted_in_words_whatever_case_and_punctuation() -> None:
    training = TrainingText(["Something else entirely.", TRAINED])
    found = training.measure_copying(
        "I think: AN INDEX keeps vectors beside words and a query asks me nothing."
    )
    assert found.longest == 10
    assert 0 < found.share < 1


def test_a_whole_copy_has_share_1_and_free_text_0() -> None:
    training = TrainingText([TRAINED])
    assert training.measure_copying(TRAINED).share == 1
    assert training.measure_copying(TRAINED).longest == len(TRAINED.split())
    assert (
        training.measure_copying("Nothing of this was ever written in any text that was learned.").longest
        == 0
    )


def test_runs_do_not_cross_from_one_training_text_into_the_next() -> None:
    training = TrainingText(["one two three four five", "six seven eight nine ten"])
    assert training.measure_copying("one two three four five six seven eight nine ten").longest == 5


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=40), st.lists(st.sampled_from("abc"), max_size=25))
def test_the_longest_copy_is_that_of_a_plain_search(trained: list[str], text: list[str]) -> None:
    longest = max(
        (
            size
            for size in range(5, len(text) + 1)
            for start in range(len(text) - size + 1)
            if f" {' '.join(text[start : start + size])} " in f" {' '.join(trained)} "
        ),
        default=0,
    )
    assert TrainingText([" ".join(trained)]).measure_copying(" ".join(text)).longest == longest


# --- empty answers and repetition ----------------------------------------------------------------------------------------


def test_empty_and_circling_answers_are_told() -> None:
    assert measure_repetition("the index is good " * 10) > 0.85
    assert measure_repetition("every word here is another one than those before") == 0
    assert measure_repetition("too short") == 0


# --- intervals -----------------------------------------------------------------------------------------------------------


def test_unclustered_intervals_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).gamma(2.0, size=80)
    ours = DocumentBootstrap([str(n) for n in range(80)], seed=0).estimate_interval(list(values))
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_clustered_paired_intervals_are_those_of_scipy_drawing_documents() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(2)
    documents = random.integers(0, 25, size=120)
    ours = random.gamma(2.0, size=120) + documents / 10
    theirs = ours + random.normal(0.2, 0.3, size=120) + documents % 3 / 5
    tokens = random.integers(5, 80, size=120).astype(float)

    def perplexities(chosen: np.ndarray) -> float:
        """From scratch: lay the drawn documents' items end to end, and subtract the two perplexities."""
        places = np.concatenate([np.flatnonzero(documents == one) for one in chosen])
        first, second = (np.average(values[places], weights=tokens[places]) for values in (ours, theirs))
        return float(np.exp(first) - np.exp(second))

    found = DocumentBootstrap([str(n) for n in documents], seed=0).estimate_difference(
        list(ours), list(theirs), weights=list(tokens), transform=exponential
    )
    names = np.unique(documents)
    reference = stats.bootstrap(
        (names,),
        perplexities,
        n_resamples=4_000,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = reference.high - reference.low
    assert found.mean == pytest.approx(perplexities(names))
    assert found.low == pytest.approx(reference.low, abs=0.07 * width)
    assert found.high == pytest.approx(reference.high, abs=0.07 * width)


def test_items_of_one_document_widen_the_interval() -> None:
    values = [float(n // 10) for n in range(100)]
    alone = DocumentBootstrap([str(n) for n in range(100)], seed=0).estimate_interval(values)
    together = DocumentBootstrap([str(n // 10) for n in range(100)], seed=0).estimate_interval(values)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_a_difference_is_paired_and_leaves_out_what_one_side_misses() -> None:
    chosen = np.random.default_rng(0)
    base = list(chosen.normal(0, 5, size=60))
    better = [value + 1 for value in base]
    draws = DocumentBootstrap([str(n) for n in range(60)], seed=0, resamples=1000)
    found = draws.estimate_difference(better, base)
    assert (found.low, found.mean, found.high) == pytest.approx((1, 1, 1))
    with_gaps = draws.estimate_difference([None, float("nan"), *better[2:]], base)
    assert with_gaps.mean == pytest.approx(1)
    assert draws.count_clusters([None, *better[1:]]) == 59
    with pytest.raises(InvalidInputError, match="at least one item"):
        draws.estimate_difference([None] * 60, base)


def test_perplexity_weighs_tokens_and_is_the_exponential_of_the_mean() -> None:
    draws = DocumentBootstrap(["a", "b"], seed=0, resamples=200)
    found = draws.estimate_interval([2.0, 1.0], weights=[30, 10], transform=exponential)
    assert found.mean == pytest.approx(np.exp(70 / 40))
    assert found.low == pytest.approx(np.exp(1.0))
    assert found.high == pytest.approx(np.exp(2.0))


def test_correlation_is_none_where_nothing_varies() -> None:
    assert pearson_correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert pearson_correlation([1, 1, 1], [2, 4, 6]) is None
