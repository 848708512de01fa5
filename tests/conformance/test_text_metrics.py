"""Answers against references, by the libraries themselves."""

from pathlib import Path

import pytest

from llm_engineering.domain.errors import InvalidInputError, ModelFileError
from llm_engineering.infrastructure.evaluation.text_metrics import BertScore, corpus_scores, reference_scores

pytest.importorskip("rouge_score")
pytest.importorskip("sacrebleu")


def test_a_copy_has_the_full_score_and_unrelated_text_none() -> None:
    found = reference_scores(
        ["An index keeps vectors beside words.", "zzz"], ["An index keeps vectors beside words."] * 2
    )
    assert set(found) == {"rouge1", "rouge2", "rougeL", "bleu", "chrf"}
    for scores in found.values():
        assert scores[0] == pytest.approx(1.0)
        assert scores[1] < 0.05


def test_rouge_is_the_textbook_f1() -> None:
    found = reference_scores(["the cat sat"], ["the cat lay down"])
    assert found["rouge1"][0] == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert found["rouge2"][0] == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert found["rougeL"][0] == pytest.approx(found["rouge1"][0])


def test_words_of_other_scripts_count() -> None:
    found = reference_scores(
        ["Größe und Übermaß", "векторы и слова"], ["Größe und Übermaß", "векторы и слова"]
    )
    assert found["rouge1"] == [1.0, 1.0]


def test_empty_answers_have_score_0() -> None:
    assert {name: scores[0] for name, scores in reference_scores([""], ["Some text."]).items()} == {
        "rouge1": 0.0,
        "rouge2": 0.0,
        "rougeL": 0.0,
        "bleu": 0.0,
        "chrf": 0.0,
    }


def test_corpus_scores_are_those_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    answers = ["the cat sat on the mat today", "a dog ran through the big park"]
    references = ["the cat sat on a mat today", "a dog ran through the park"]
    found = corpus_scores(answers, references)
    assert found["corpus_bleu"] == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score / 100)
    assert found["corpus_chrf"] == pytest.approx(sacrebleu.corpus_chrf(answers, [references]).score / 100)


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="1 answers against 2"):
        reference_scores(["a"], ["a", "b"])
    with pytest.raises(InvalidInputError, match="at least one"):
        corpus_scores([], [])


def test_bertscore_is_1_for_equal_texts_and_lower_for_others(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.fakes.toy_model import make_model

    scorer = BertScore(make_model(tmp_path / "encoder"))
    same, other, empty = scorer.compute_scores(
        ["Chunks overlap.", "An index keeps vectors.", ""], ["Chunks overlap.", "Chunks overlap."] * 1 + ["x"]
    )
    assert same == pytest.approx(1.0, abs=1e-5)
    assert other < same
    assert empty == 0.0


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ModelFileError, match="bertscore"):
        BertScore(tmp_path).compute_scores(["a"], ["a"])
