"""The reference of embeddings: sentence-transformers on the same rows, loss, batch and epochs, in its own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastserve_core.data import load_dataset
from fastserve_core.processes import child_main

LR, WARMUP = 2e-5, 0.1
"""Those of the training example of sentence-transformers on STS-B."""


def train(model: str, data: str, settings: dict[str, Any], folder: str, events: str) -> dict[str, Any]:
    """Train a reference with CoSENT and score it on the test split.

    Args:
        model: The checkpoint.
        data: The folder of the prepared rows.
        settings: ``batch_size``, ``epochs``, ``max_length`` in tokens, ``seed``, and ``bf16`` for autocast.
        folder: The output folder.
        events: The path for events, of which there are none.

    Returns:
        ``untouched`` and ``spearman`` on the test split, and ``rate``: training pairs a second.
    """
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CoSENTLoss

    dataset = load_dataset(Path(data))
    train_rows, test_rows = list(dataset.rows("train")), list(dataset.rows("test"))
    network = SentenceTransformer(model, device="cpu")
    network.max_seq_length = settings["max_length"]
    untouched = score(network, test_rows)
    arguments = SentenceTransformerTrainingArguments(
        folder,
        num_train_epochs=settings["epochs"],
        per_device_train_batch_size=settings["batch_size"],
        learning_rate=LR,
        warmup_ratio=WARMUP,
        seed=settings["seed"],
        bf16=settings["bf16"],
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    columns = {"sentence1": "text", "sentence2": "positive", "score": "score"}
    rows = Dataset.from_list([{name: row[own] for name, own in columns.items()} for row in train_rows])
    trainer = SentenceTransformerTrainer(network, arguments, train_dataset=rows, loss=CoSENTLoss(network))
    seconds = trainer.train().metrics["train_runtime"]
    return {
        "untouched": untouched,
        "spearman": score(network, test_rows),
        "rate": settings["epochs"] * len(train_rows) / seconds,
    }


def score(network: Any, rows: list[dict[str, Any]]) -> float:
    """Return the correlation of the cosines of pairs with their scores."""
    from scipy import stats

    first, second = (
        network.encode([row[name] for row in rows], batch_size=64, normalize_embeddings=True)
        for name in ("text", "positive")
    )
    return float(stats.spearmanr((first * second).sum(1), [row["score"] for row in rows]).statistic)


if __name__ == "__main__":
    child_main(train)
