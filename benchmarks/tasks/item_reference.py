"""SASRec of RecTools with cross-entropy over all items, on the rows of one of our runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.data import load_dataset
from fastserve_core.processes import child_main

CUTOFF = 10


def train(data: str, epochs: int, seed: int) -> dict[str, Any]:
    """Train on the train split, and score the test split over all items, without those of the history.

    Args:
        data: The folder of the prepared rows.
        epochs: The number of epochs.
        seed: The seed.

    Returns:
        ``scores``, and ``rate`` in rows a second.
    """
    from pytorch_lightning import Trainer, seed_everything
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    seed_everything(seed)

    def make_trainer(**_: Any) -> Trainer:
        return Trainer(
            max_epochs=epochs, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    rows = list(load_dataset(Path(data)).rows("train"))
    model = SASRecModel(
        n_factors=128, n_blocks=2, n_heads=2, session_max_len=50, dropout_rate=0.2, loss="softmax", lr=1e-3,
        batch_size=128, get_trainer_func=make_trainer,
    )  # fmt: skip
    started = time.monotonic()
    model.fit(Dataset.construct(make_frame((str(number), row) for number, row in enumerate(rows))))
    seconds = time.monotonic() - started
    test = list(load_dataset(Path(data)).rows("test"))
    histories = [
        (str(number), {"items": row["items"][:-1], "next": row["items"][-1]}) for number, row in enumerate(test)
    ]
    found = model.recommend(
        users=[user for user, _ in histories], dataset=Dataset.construct(make_frame(histories)), k=CUTOFF,
        filter_viewed=True, on_unsupported_targets="ignore",
    )  # fmt: skip
    targets = {str(number): row["next"] for number, row in enumerate(test)}
    return {
        "scores": score(found[["user_id", "item_id", "rank"]].to_numpy(), targets),
        "rate": len(rows) * epochs / seconds,
    }


def make_frame(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Any:
    """Return the interactions of rows, a day after the other, as RecTools orders them by time."""
    import pandas as pd

    events = [
        (user, item, pd.Timestamp(0) + pd.Timedelta(days=day), 1.0)
        for user, row in rows
        for day, item in enumerate([*row["items"], row["next"]])
    ]
    return pd.DataFrame(events, columns=["user_id", "item_id", "datetime", "weight"])


def score(found: Iterable[Sequence[Any]], targets: Mapping[str, str]) -> dict[str, float]:
    """Return HR@10 and NDCG@10 of recommendations, which are users, items and ranks from 1."""
    import math

    ranks = [int(rank) for user, item, rank in found if targets[user] == item and rank <= CUTOFF]
    gain = sum(1 / math.log2(rank + 1) for rank in ranks)
    return {"hr10": len(ranks) / len(targets), "ndcg10": gain / len(targets)}


if __name__ == "__main__":
    child_main(train)
