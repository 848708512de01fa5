"""Linear classifiers over embeddings, learned with scikit-learn."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_engineering.application.ports import Vectors
from llm_engineering.domain.errors import MissingDependencyError

_NOWHERE = -30.0
"""Score of a class of which a fold holds no text: its probability is then nothing."""


class LogisticLearner:
    """Multinomial logistic regression, and folds that spread the classes and keep groups together."""

    def fit(
        self, vectors: Vectors, labels: Sequence[str], classes: Sequence[str], penalty: float
    ) -> tuple[Vectors, Vectors]:
        """Return weights of shape (dimension, classes) and bias of shape (classes,).

        Raises:
            MissingDependencyError: scikit-learn is not installed.
        """
        given = np.asarray(vectors, dtype=np.float32)
        model = _import().LogisticRegression(C=penalty, max_iter=1_000, tol=1e-3).fit(given, list(labels))
        weights, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # one score is kept of two; softmax needs both
            weights, bias = np.vstack([-weights / 2, weights / 2]), np.concatenate([-bias / 2, bias / 2])
        learned = {value: row for row, value in enumerate(model.classes_)}
        whole = np.zeros((given.shape[1], len(classes)), dtype=np.float32)
        scores = np.full(len(classes), _NOWHERE, dtype=np.float32)
        for column, value in enumerate(classes):
            if value in learned:
                whole[:, column], scores[column] = weights[learned[value]], bias[learned[value]]
        return whole, scores

    def assign_folds(self, labels: Sequence[str], groups: Sequence[str], folds: int, seed: int) -> list[int]:
        """Return the fold of each label; fewer folds than asked for where there are fewer groups.

        Raises:
            MissingDependencyError: scikit-learn is not installed.
        """
        _import()
        import warnings

        from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

        count = max(2, min(folds, len(set(groups)), max(Counter(labels).values())))
        assigned = [0] * len(labels)
        alone = len(set(groups)) == len(groups)
        # Without groups the plain splitter does the same in a hundredth of the time.
        splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(
            count, shuffle=True, random_state=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # a class with fewer texts than folds is in some folds only
            for fold, (_, inside) in enumerate(
                splitter.split(np.zeros(len(labels)), list(labels), list(groups))
            ):
                for place in inside:
                    assigned[int(place)] = fold
        return assigned


def _import() -> Any:
    try:
        from sklearn import linear_model
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", "training", "Training a head") from error
    return linear_model
