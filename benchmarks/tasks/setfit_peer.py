"""SetFit's own package on the rows of a run, in an environment of its own: it needs transformers 4.

pip install 'setfit==1.2.0' 'transformers<5' 'datasets<5' && export FASTSERVE_BENCH_SETFIT=/path/to/python
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PYTHON = "FASTSERVE_BENCH_SETFIT"
ITERATIONS = 6
"""Pairs of each kind for a row. SetFit's default, all pairs of the rarer kind, takes hours for 77 labels on CPUs."""


def score_setfit(model: Path, train: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]], seed: int) -> list[Any]:
    """Return SetFit's answers to the test rows; empty, with a message, if its environment is not named.

    Args:
        model: The folder of the checkpoint.
        train: The training rows.
        test: The test rows.
        seed: The seed of the training.
    """
    if not (python := os.environ.get(PYTHON)):
        print(f"setfit is missing: {PYTHON} must be the python of an environment with it")
        return []
    request = {
        "model": str(model),
        "texts": [row["text"] for row in train],
        "labels": [row["label"] for row in train],
        "test": [row["text"] for row in test],
        "seed": seed,
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, __file__], check=True, input=json.dumps(request), env=environment, stdout=subprocess.PIPE, text=True
    )
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def answer(request: dict[str, Any]) -> list[str]:
    """Train SetFit with its defaults but for ``ITERATIONS``, and return its answers."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    names = sorted(set(request["labels"]))
    model = SetFitModel.from_pretrained(request["model"])
    arguments = TrainingArguments(num_iterations=ITERATIONS, seed=request["seed"], report_to="none", save_strategy="no")
    rows = Dataset.from_dict({"text": request["texts"], "label": [names.index(name) for name in request["labels"]]})
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    return [names[int(number)] for number in model.predict(request["test"])]


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
