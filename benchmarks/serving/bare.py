"""The engine without a server, on the texts that the servers are sent; a process of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from fastserve_core.inference import Predictor
from fastserve_core.processes import child_main

BATCH = 32
SINGLE = 200


def bare(artifact: str, texts: Sequence[str], threads: int, seconds: float, events: str) -> dict[str, float]:
    """Texts a second in sorted full batches, and the median milliseconds of one text alone, from text to answer.

    Alone, one text after the other is answered as a server gets them, with one thread, as by a worker of ours, and with
    all. OpenVINO takes longer for a text of another length than the last one had.
    """
    every = Predictor(Path(artifact), threads)
    alone = {"ms": Predictor(Path(artifact), 1), "ms_all_threads": every}
    every.predict(texts, BATCH)
    rates = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or not rates:
        begin = time.perf_counter()
        every.predict(texts, BATCH)
        rates.append(len(texts) / (time.perf_counter() - begin))
    times: dict[str, list[float]] = {name: [] for name in alone}
    some = texts[:: max(1, len(texts) // SINGLE)]
    for name, predictor in alone.items():
        predictor.warmup(some)
        for text in some:
            begin = time.perf_counter()
            predictor.predict([text])
            times[name].append(time.perf_counter() - begin)
    return {"per_s": statistics.median(rates)} | {name: 1000 * statistics.median(one) for name, one in times.items()}


if __name__ == "__main__":
    child_main(bare)
