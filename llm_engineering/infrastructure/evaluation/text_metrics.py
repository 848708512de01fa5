"""ROUGE, BLEU, chrF and BERTScore of answers against reference texts, by their reference libraries."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_engineering.domain.errors import InvalidInputError, MissingDependencyError, ModelFileError

_WORD = re.compile(r"\w+")
_BATCH = 16


class _Words:
    """ROUGE's own tokenizer drops every letter outside of a to z; this one keeps the words of other languages."""

    def tokenize(self, text: str) -> list[str]:
        return [word.casefold() for word in _WORD.findall(text)]


def reference_scores(answers: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """Return scores of each answer against its reference, 0 to 1, by metric.

    ``rouge1``, ``rouge2``, ``rougeL``: F1 of shared words, word pairs and the longest common subsequence (C.-Y. Lin,
    "ROUGE", 2004), by rouge-score with words of any language, without stemming. ``bleu``: BLEU-4 of a sentence with
    effective order and exponential smoothing (Papineni et al., 2002; Chen & Cherry, 2014). ``chrf``: chrF2 (Popović,
    2015), both by sacrebleu, divided by 100.

    Raises:
        InvalidInputError: the lists differ in length.
        MissingDependencyError: rouge-score or sacrebleu is not installed.
    """
    _check_lengths(answers, references)
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise MissingDependencyError(
            error.name or "rouge-score", "training", "Comparing with references"
        ) from None
    kinds = ("rouge1", "rouge2", "rougeL")
    rouge = RougeScorer(list(kinds), use_stemmer=False, tokenizer=_Words())
    bleu, chrf = BLEU(effective_order=True), CHRF()
    found: dict[str, list[float]] = {name: [] for name in (*kinds, "bleu", "chrf")}
    for answer, reference in zip(answers, references, strict=True):
        scores = rouge.score(reference, answer)
        for name in kinds:
            found[name].append(float(scores[name].fmeasure))
        found["bleu"].append(float(bleu.sentence_score(answer, [reference]).score) / 100)
        found["chrf"].append(float(chrf.sentence_score(answer, [reference]).score) / 100)
    return found


def corpus_scores(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return ``corpus_bleu`` and ``corpus_chrf`` over all answers together, 0 to 1, as papers report them.

    Raises:
        InvalidInputError: the lists differ in length, or are empty.
        MissingDependencyError: sacrebleu is not installed.
    """
    _check_lengths(answers, references)
    if not answers:
        raise InvalidInputError("BLEU over a corpus needs at least one answer; there is none.")
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise MissingDependencyError("sacrebleu", "training", "Comparing with references") from None
    return {
        "corpus_bleu": float(BLEU().corpus_score(list(answers), [list(references)]).score) / 100,
        "corpus_chrf": float(CHRF().corpus_score(list(answers), [list(references)]).score) / 100,
    }


@dataclass(frozen=True, slots=True)
class LibraryMetrics:
    """Implements :class:`~llm_engineering.application.evaluation.models.metrics.ReferenceMetrics`."""

    bertscore: Path | None = None
    """Folder of an encoder; None: no BERTScore."""

    def score_pairs(self, answers: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
        """Return scores of each answer by metric."""
        found = reference_scores(answers, references)
        if self.bertscore is not None:
            found["bertscore"] = BertScore(self.bertscore).compute_scores(answers, references)
        return found

    def score_corpus(self, answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Return scores over all answers."""
        return corpus_scores(answers, references)


@dataclass(frozen=True, slots=True)
class BertScore:
    """BERTScore F1 with a model from a local folder.

    Zhang et al., "BERTScore", ICLR 2020: tokens of both texts matched greedily by the cosine of their contextual
    vectors, ``R = mean_r max_a cos``, ``P = mean_a max_r cos``, ``F1 = 2PR / (P + R)``; without idf weights and without
    rescaling, so values are high and only differences say something. Special tokens are left out.
    """

    folder: Path
    """An encoder as ``transformers`` loads it."""
    layer: int = -1
    """Which hidden layer's vectors; the paper chooses one per model, the last by default here."""

    def compute_scores(self, answers: Sequence[str], references: Sequence[str]) -> list[float]:
        """Return F1 of each pair; 0 where one of the texts has no token. Texts over the model's limit are cut to it.

        Raises:
            InvalidInputError: the lists differ in length.
            MissingDependencyError: transformers is not installed.
            ModelFileError: the folder holds no encoder.
        """
        _check_lengths(answers, references)
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
        except ImportError:
            raise MissingDependencyError("transformers", "training", "BERTScore") from None
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
            model = AutoModel.from_pretrained(self.folder, local_files_only=True).eval()
        except (OSError, ValueError) as error:
            raise ModelFileError(
                f"{self.folder} holds no model for BERTScore ({error}). Name a folder with an encoder's config.json, weights "
                "and tokenizer, or leave 'bertscore' out."
            ) from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        texts = list(dict.fromkeys([*answers, *references]))
        vectors: dict[str, Any] = {}
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                batch = texts[start : start + _BATCH]
                vectors.update(zip(batch, self._vectors(batch, tokenizer, model), strict=True))
            return [_f1(vectors[a], vectors[r]) for a, r in zip(answers, references, strict=True)]

    def _vectors(self, texts: Sequence[str], tokenizer: Any, model: Any) -> list[Any]:
        import torch

        limit = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
        encoded = tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=limit,
            return_tensors="pt",
            return_special_tokens_mask=True,
        )
        special = encoded.pop("special_tokens_mask").bool()
        hidden = model(**encoded, output_hidden_states=True).hidden_states[self.layer]
        hidden = torch.nn.functional.normalize(hidden.float(), dim=-1)
        kept = encoded["attention_mask"].bool() & ~special
        return [row[mask] for row, mask in zip(hidden, kept, strict=True)]


def _f1(answer: Any, reference: Any) -> float:
    if not len(answer) or not len(reference):
        return 0.0
    likeness = answer @ reference.T
    precision = float(likeness.max(dim=1).values.mean())
    recall = float(likeness.max(dim=0).values.mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def _check_lengths(answers: Sequence[str], references: Sequence[str]) -> None:
    if len(answers) != len(references):
        raise InvalidInputError(
            f"Each answer needs its reference: {len(answers)} answers against {len(references)} references."
        )
