"""A run as it really looks: two trials' worth of tuning, training, one compressor accepted and one rejected."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from fastserve_core.events import (
    Event,
    Metric,
    Preflight,
    Progress,
    RunFinished,
    RunPlanned,
    StageFinished,
    StageStarted,
    Step,
    TrialFinished,
    WarningRaised,
)

HOME = "/home/ann/reviews/.fastserve/store"
TRAINER = {"epochs": 3, "batch_size": 16, "lr": 8.7e-05, "weight_decay": 0.01, "precision": "auto", "nproc": None}


def measures(quality: dict[str, float], validation: dict[str, float], *figures: float) -> dict[str, Any]:
    p50, p99, throughput, megabytes, memory = figures
    return {
        "quality": quality,
        "quality_validation": validation,
        "latency_ms_p50": p50,
        "latency_ms_p99": p99,
        "throughput_per_s": throughput,
        "size_bytes": int(megabytes * 1e6),
        "peak_memory_bytes": int(memory * 1e6),
        "threads": 2,
    }


def scores(accuracy: float, f1: float) -> dict[str, float]:
    return {"accuracy": accuracy, "macro_f1": f1}


def stage(kind: str, plugin: str, status: str, seconds: float, **more: Any) -> dict[str, Any]:
    key = format(abs(hash((kind, plugin))) % 16**8, "08x")
    line = {"stage": kind, "plugin": plugin, "version": "0.1.0", "status": status, "seconds": seconds}
    return line | {
        "artifact": f"{HOME}/{kind}-{plugin}-{key}", "digest": key * 8, "options": {}, "measures": {},
        "reason": "", "found": {}, **more,
    }  # fmt: skip


SHARES = {"accuracy": {"higher_is_better": True, "unit": "%", "is_share_of_rows": True}}


@pytest.fixture
def record() -> dict[str, Any]:
    trained = measures(scores(0.8836, 0.8831), scores(0.8902, 0.8899), 12.31, 15.9, 214.2, 90.9, 612.0)
    small = measures(scores(0.8814, 0.8808), scores(0.8893, 0.8888), 4.214, 5.02, 802.5, 23.3, 402.0)
    bad = measures(scores(0.8421, 0.8399), scores(0.8477, 0.8460), 4.05, 4.9, 850.0, 21.8, 398.0)
    tune = {"train.torch_ddp.lr": 8.7e-05, "train.torch_ddp.batch_size": 16}
    stages = [
        stage(
            "tune", "nevergrad", "done", 241.7,
            options={"trials": 6, "trial_steps": 60, "space": None}, found=tune,
        ),
        stage("train", "torch_ddp", "done", 431.2, options=TRAINER, measures=trained),
        stage("compress", "neural_compressor", "done", 38.4, measures=small, options={"approach": "static"}),
        stage("compress", "pruner", "rejected", 61.0, measures=bad, options={"sparsity": 0.5},
              reason="quality drop 0.0425 is above gate.max_quality_drop=0.01"),
    ]  # fmt: skip
    return {
        "schema": 1, "task": "text_classification", "seed": 0, "status": "done", "error": "", "metrics": SHARES,
        "command": "+experiment=movie_reviews train.torch_ddp.epochs=3", "best": stages[2]["artifact"],
        "data": {"fingerprint": "9f2c" * 16, "rows": {"train": 8530, "validation": 1066, "test": 1066},
                 "labels": ["negative", "positive"], "bad_rows": 0},
        "stages": stages,
    }  # fmt: skip


@pytest.fixture
def told(record: dict[str, Any]) -> list[Event]:
    """Everything the observers are told before the run is finished."""
    lines = record["stages"]
    events: list[Event] = [
        RunPlanned(tuple((one["stage"], one["plugin"], "to do") for one in lines)),
        Preflight(
            8530, 1_913_000, 22_713_216, 1_213_000_000, 14_800_000_000, 430.0, processor="EPYC", is_measured=True
        ),
        StageStarted("tune", "nevergrad"),
        *trials(),
        finished(lines[0]),
        StageStarted("train", "torch_ddp"),
        *training(),
        Progress("measuring", 1, 3),
        finished(lines[1]),
        StageStarted("compress", "neural_compressor"),
        WarningRaised("the calibration rows are few"),
        finished(lines[2]),
        StageStarted("compress", "pruner"),
        finished(lines[3]),
    ]
    return events


def trials() -> list[Event]:
    found: list[Event] = []
    tried = [(5e-5, 32, 0.861), (8.7e-5, 16, 0.8799), (9.1e-4, 16, None), (2.2e-5, 64, 0.802), (1.4e-4, 32, 0.8743)]
    for number, (lr, batch, score) in enumerate(tried):
        found.append(Step(60, 60, 0.2, 0.5, lr, 812.0, 24_100.0, 0.0))
        options = {"train.torch_ddp.lr": lr, "train.torch_ddp.batch_size": batch}
        found.append(TrialFinished(number, 6, options, score, 40.3))
    return found


def training() -> list[Event]:
    found: list[Event] = []
    for step in range(1, 1600, 5):
        loss = 0.18 + 0.52 * math.exp(-step / 350) + 0.05 * math.sin(step * 1.7) * math.sin(step * 0.37)
        found.append(Step(step, 1599, step / 533, loss, 1e-5, 812.3, 24_120.0, (1599 - step) / 4))
        if step % 265 == 261:
            quality = 0.89 - 0.12 * math.exp(-step / 300)
            found += [Metric("accuracy", quality, step), Metric("macro_f1", quality - 0.004, step)]
    return found


def finished(line: dict[str, Any]) -> StageFinished:
    return StageFinished(
        line["stage"], line["plugin"], line["status"], line["seconds"], line["measures"], line["reason"]
    )


@pytest.fixture
def done(record: dict[str, Any], tmp_path: Path) -> RunFinished:
    return RunFinished(tmp_path, record)


def without_events(kind: str, quality: list[dict[str, float]]) -> dict[str, Any]:
    """A reused run of another task: a trained model and a compressed one."""
    trained, small = (
        measures(one, one, *figures)
        for one, figures in zip(
            quality, [(42.0, 50.0, 31.0, 440.0, 900.0), (21.5, 24.0, 60.0, 111.0, 700.0)], strict=True
        )
    )
    lines = [
        stage("train", "torch_ddp", "reused", 0.02, measures=trained, options=TRAINER),
        stage("compress", "neural_compressor", "reused", 0.01, measures=small),
    ]
    rows = {"train": 500, "validation": 60, "test": 60}
    return {"schema": 1, "task": kind, "seed": 0, "status": "done", "command": "", "best": lines[1]["artifact"],
            "data": {"fingerprint": "ab", "rows": rows, "labels": []}, "stages": lines}  # fmt: skip


@pytest.fixture
def tagging() -> dict[str, Any]:
    return without_events("token_classification", [{"accuracy": 0.981, "f1": 0.902}, {"accuracy": 0.979, "f1": 0.897}])


@pytest.fixture
def language() -> dict[str, Any]:
    return without_events("causal_lm", [{"loss": 3.212, "perplexity": 24.83}, {"loss": 3.231, "perplexity": 25.30}])
