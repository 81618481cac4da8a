"""Short and long texts that come one after another, faster than they can be written: the two schedulers in turn."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from training.tables import table

from generation.ours import Job, rate, seconds_of, serving
from generation.setting import Bench, models, prompts

SHORT, LONG, SHARE_OF_LONG = 16, 256, 0.3
LOAD, PLACES = 1.2, 8
"""How many times what can be written is asked for, and how many texts are written at a time."""
SCHEDULERS = ("fcfs", "mlfq")


def trace(count: int, per_s: float) -> list[Job]:
    """Jobs that come at random times, ``LOAD`` times as fast as ``per_s`` tokens a second can be written."""
    random = np.random.default_rng(1)
    lengths = np.where(random.random(count) < SHARE_OF_LONG, LONG, SHORT)
    pause = lengths.mean() / (LOAD * per_s)
    times = random.exponential(pause, count).cumsum()
    return [
        Job(prompt, int(tokens), float(at)) for prompt, tokens, at in zip(prompts(count), lengths, times, strict=True)
    ]


def mixed(bench: Bench) -> dict[str, Any]:
    """Mean seconds of short and of long texts by scheduler, and tokens a second."""
    model = models(bench).quantized
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in SCHEDULERS}
    jobs: list[Job] = []
    for _ in range(bench.rounds):
        for name in SCHEDULERS:
            with serving(model, bench.threads, scheduler=name, max_batch=PLACES) as server:
                if not jobs:
                    rate(server.url, prompts(PLACES))
                    jobs = trace(bench.jobs, rate(server.url, prompts(PLACES)))
                took, seconds = seconds_of(server.url, jobs)
            means = [
                statistics.fmean(one for one, job in zip(took, jobs, strict=True) if job.tokens == length)
                for length in (SHORT, LONG)
            ]
            found[name].append((means[0], means[1], sum(job.tokens for job in jobs) / seconds))
    middle = {name: [statistics.median(one) for one in zip(*several, strict=True)] for name, several in found.items()}
    rows = [[name, f"{one[0]:.2f}", f"{one[1]:.2f}", f"{one[2]:.0f}"] for name, one in middle.items()]
    print(table(["scheduler", "s, short texts", "s, long texts", "tokens/s"], rows))
    ratios = [(first[0] / second[0], 1 - second[2] / first[2]) for first, second in zip(*found.values(), strict=True)]
    return {
        "short_job_speedup": round(statistics.median(one[0] for one in ratios), 2),
        "throughput_loss": round(statistics.median(one[1] for one in ratios), 3),
        "mixed": middle,
    }
