"""The texts a second of an engine with its best batch, and of the pipeline of transformers, in a process of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from fastserve_core.inference import Predictor, length_batches
from fastserve_core.processes import child_main

BATCHES = (8, 16, 32, 64, 128)
PIPELINE_BATCH, SAMPLE, REPEATS = 32, 512, 3


def measure(model: str, checkpoint: str, texts: str, events: str) -> dict[str, Any]:
    """Time both, in turn.

    Args:
        model: The artifact that the engine runs.
        checkpoint: The trained model, which the pipeline runs.
        texts: A file with texts.
        events: The path for events, of which there are none.

    Returns:
        The best ``engine`` and ``pipeline`` rates, in texts a second.
    """
    import transformers

    lines = Path(texts).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line)["text"] for line in lines]
    pipeline = transformers.pipeline("text-classification", model=checkpoint, device="cpu")
    predictor = Predictor(Path(model))
    pipeline(rows[:PIPELINE_BATCH], batch_size=PIPELINE_BATCH)
    rates: dict[str, float] = {"engine": 0.0, "pipeline": 0.0}
    for _ in range(REPEATS):
        rates["engine"] = max(rates["engine"], *(_engine_rate(predictor, rows, size) for size in BATCHES))
        begin = time.perf_counter()
        pipeline(rows[:SAMPLE], batch_size=PIPELINE_BATCH)
        rates["pipeline"] = max(rates["pipeline"], SAMPLE / (time.perf_counter() - begin))
    return rates


def _engine_rate(predictor: Predictor, rows: list[str], size: int) -> float:
    """Return the rate on encoded texts in batches of similar length."""
    encoded = predictor.encode([predictor.task.read_input(text) for text in rows])
    batches = [[encoded[index] for index in indices] for indices in length_batches(encoded, size)]
    for _ in predictor.answer_all(batches[:2]):
        pass
    begin = time.perf_counter()
    count = sum(len(answers) for answers in predictor.answer_all(batches))
    return count / (time.perf_counter() - begin)


if __name__ == "__main__":
    child_main(measure)
