"""The cheap objective: TF-IDF and a linear model on the movie reviews, an epoch at a time."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from training.workload import Bench as TrainingBench

from fastserve_core.artifacts import Store
from fastserve_core.plugins import TrialRequest, TrialResult
from tuning.setting import Attempting, Objective

EPOCHS, STEPS_PER_EPOCH = 9, 45
TRAIN_ROWS, VALIDATION_ROWS = 2000, 800
SPACE: dict[str, Any] = {
    "train.linear.alpha": {"log": [1e-7, 1e-2]},
    "train.linear.eta0": {"log": [1e-3, 10.0]},
    "train.linear.power_t": [0.0, 0.7],
    "train.linear.l1_ratio": [0.0, 1.0],
    "train.linear.ngrams": {"choice": [1, 2, 3]},
    "train.linear.min_df": {"int": [1, 8]},
    "train.linear.sublinear": {"choice": [False, True]},
    "train.linear.average": {"choice": [False, True]},
}
FIRST: dict[str, Any] = {
    "train.linear.alpha": 1e-4,
    "train.linear.eta0": 0.1,
    "train.linear.power_t": 0.25,
    "train.linear.l1_ratio": 0.15,
    "train.linear.ngrams": 1,
    "train.linear.min_df": 1,
    "train.linear.sublinear": False,
    "train.linear.average": False,
}


class Reviews:
    """Texts and labels of the train and validation split, and the features of each way to count words."""

    def __init__(self, store: Store) -> None:
        data = TrainingBench(store, store.downloads_dir, 1, 1).reviews().data
        self._texts, self.labels = {}, {}
        for split, rows in (("train", TRAIN_ROWS), ("validation", VALIDATION_ROWS)):
            chosen = data.rows(split)[:rows]
            self._texts[split] = [row["text"] for row in chosen]
            self.labels[split] = np.array([data.labels.index(row["label"]) for row in chosen])
        self.features = cache(self._features)

    def _features(self, ngrams: int, min_df: int, sublinear: bool) -> tuple[Any, Any]:
        vectorizer = TfidfVectorizer(ngram_range=(1, ngrams), min_df=min_df, sublinear_tf=sublinear)
        train = vectorizer.fit_transform(self._texts["train"])
        return train, vectorizer.transform(self._texts["validation"])


class Training:
    """One model, which learns an epoch after the other."""

    def __init__(self, reviews: Reviews, options: dict[str, Any], seed: int) -> None:
        self.reviews, self.epochs, self.random = reviews, 0, np.random.default_rng(seed)
        self.train, self.validation = reviews.features(
            *(options.pop(name) for name in ("ngrams", "min_df", "sublinear"))
        )
        self.model = SGDClassifier(
            loss="log_loss", penalty="elasticnet", learning_rate="invscaling", random_state=seed, **options
        )

    def advance(self, epochs: int) -> float:
        """Learn up to that epoch; the validation loss then."""
        labels = self.reviews.labels
        while self.epochs < epochs:
            order = self.random.permutation(len(labels["train"]))
            self.model.partial_fit(self.train[order], labels["train"][order], classes=[0, 1])
            self.epochs += 1
        return float(log_loss(labels["validation"], self.model.predict_proba(self.validation)))


def linear(store: Store) -> Objective:
    """A step is as many reviews as in a batch of 44."""
    reviews = Reviews(store)

    def begin(seed: int) -> Attempting:
        running: dict[int, Training] = {}

        def attempt(trial: TrialRequest) -> TrialResult:
            if trial.number not in running:
                options = {path.rpartition(".")[2]: value for path, value in trial.options.items()}
                running[trial.number] = Training(reviews, options, seed)
            steps = trial.budget.stop_at_step or trial.budget.steps or 0
            loss = running[trial.number].advance(steps // STEPS_PER_EPOCH)
            return TrialResult(-loss, {"loss": loss}, steps)

        return attempt

    return Objective(
        "TF-IDF and a linear model", SPACE, lambda seed: FIRST, EPOCHS * STEPS_PER_EPOCH, STEPS_PER_EPOCH, begin
    )
