"""A small Chinese BERT of our own: no Chinese checkpoint is on the package index."""

from __future__ import annotations

from tasks import ours
from tasks.setting import QUICK_EPOCHS, Bench

EPOCHS, BATCH = 3, 64
DIMENSIONS = {
    "dim": 256, "num_heads": 4, "num_layers": 4, "hidden_size": 1024, "vocab_size": 6000, "max_positions": 256
}  # fmt: skip


def pretrain(bench: Bench) -> str:
    """Pretrain on the training texts of the Chinese news, without their labels; return the model's folder."""
    shape = [f"model.{name}={value}" for name, value in DIMENSIONS.items()]
    epochs = QUICK_EPOCHS if bench.is_quick else EPOCHS
    options = [
        "task=pretraining", "data=people_daily", "task.max_length=128", "model=bert", *shape, "engine=torch",
        f"train.torch_ddp.epochs={epochs}", f"train.torch_ddp.batch_size={BATCH}", "train.torch_ddp.lr=1e-3",
    ]  # fmt: skip
    return str(ours.find_artifact(ours.run(bench, "pretraining", 0, options, plugins=("torch_ddp",))))
