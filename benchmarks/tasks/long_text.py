"""One long Chinese text with five types of entities, on the compressed model."""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from fastserve_core.inference import Predictor
from tasks import ours
from tasks.chinese import pretrain
from tasks.setting import QUICK_EPOCHS, QUICK_ROWS, Bench

CHARACTERS, REQUESTS, WARMUP = 2_500, 50, 5
TYPES = ("PER", "LOC", "ORG", "TIME", "MISC")


def time_long_text(bench: Bench) -> dict[str, Any]:
    """Train a tagger on few rows, because its answers do not matter here; time single requests."""
    options = [
        "task=token_classification", "data=people_daily", f"data.options.types=[{','.join(TYPES)}]",
        f"model={pretrain(bench)}", f"train.torch_ddp.epochs={QUICK_EPOCHS}",
    ]  # fmt: skip
    short = Bench(bench.data, bench.scratch, bench.seeds, QUICK_ROWS)
    record = ours.run(short, "long_text", 0, options)
    lines = (ours.find_data(record) / "test.jsonl").read_text(encoding="utf-8").splitlines()
    text = "".join("".join(json.loads(line)["tokens"]) for line in lines)[:CHARACTERS]
    predictor = Predictor(ours.find_artifact(record))
    times = []
    for _ in range(WARMUP + REQUESTS):
        begin = time.perf_counter()
        (answer,) = predictor.predict([text])
        times.append(1000 * (time.perf_counter() - begin))
    assert len(answer["tags"]) <= len(text)
    result = round(statistics.median(times[WARMUP:]), 1)
    kinds = len({label.partition("-")[2] for label in predictor.task.labels if label != "O"})
    print(f"{len(text):,} characters, {kinds} types, {predictor.threads} threads: p50 {result} ms")
    return {"long_text_ms": result}
