"""A file of short texts: the rate of ``fastserve predict``, of its engine, and of the pipeline of transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from training.tables import table

from fastserve_core.errors import StageError
from fastserve_core.processes import run_in_child, usable_cores
from tasks import ours, sources
from tasks.setting import QUICK_EPOCHS, Bench

TRAINED_ROWS = 1000
"""The training rows of the model, whose answers do not matter here."""
FEW, MANY, QUICK = 2_000, 200_000, 10_000
"""The rows of the files: those that memory is compared with, all, and in place of all if the benchmark is quick."""


class FileRun(NamedTuple):
    """The seconds and the peak memory in bytes of one command."""

    seconds: float
    memory: int


def compare_scoring(bench: Bench) -> dict[str, Any]:
    """Predict for a small and a large file; time the engine and the pipeline on a part of its texts."""
    options = [
        "task=text_classification", "model=minilm", "task.max_length=64", f"data.max_rows={TRAINED_ROWS}",
        f"train.torch_ddp.epochs={QUICK_EPOCHS}", *sources.banking77(bench.data, bench.scratch),
    ]  # fmt: skip
    record = ours.run(bench, "scoring", 0, options)
    rows = QUICK if bench.is_quick else MANY
    model = ours.find_artifact(record)
    small, large = (write_texts(bench, ours.find_data(record), count) for count in (FEW, rows))
    runs = {count: predict_file(model, path) for count, path in ((FEW, small), (rows, large))}
    request = {"model": str(model), "checkpoint": str(ours.find_artifact(record, 0)), "texts": str(small)}
    rates = run_in_child("tasks.rates", request, usable_cores())
    rate = (rows - FEW) / (runs[rows].seconds - runs[FEW].seconds)  # without the start of the command
    result = {
        "of_engine": round(rate / rates["engine"], 3),
        "vs_pipeline": round(rate / rates["pipeline"], 2),
        "memory_ratio": round(runs[rows].memory / runs[FEW].memory, 3),
    }
    cells = [("fastserve predict", rate), ("its engine, the best batch", rates["engine"]),
             ("pipeline(batch_size=32)", rates["pipeline"])]  # fmt: skip
    print(table([f"{rows:,} texts", "texts a second"], [(name, f"{one:,.0f}") for name, one in cells]))
    print(
        f"peak memory: {runs[FEW].memory / 1e6:.0f} MB for {FEW:,} rows, {runs[rows].memory / 1e6:.0f} MB for {rows:,}"
    )
    return {"scoring": result}


def write_texts(bench: Bench, data: Path, count: int) -> Path:
    """Write a file with so many of the texts of prepared rows, from the first one again after the last."""
    lines = (data / "test.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    path = bench.scratch / f"texts-{count}.jsonl"
    return sources.write_lines(path, ({"text": text} for text in islice(cycle(texts), count)))


def predict_file(model: Path, path: Path) -> FileRun:
    """Run ``fastserve predict`` on a file.

    Raises:
        StageError: The command failed.
    """
    output = path.with_name(f"scored-{path.name}")
    command = [sys.executable, "-m", "fastserve_core", "predict", str(model)]
    command += ["--input", str(path), "--output", str(output)]
    log = path.with_suffix(".log")
    begin = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise StageError(f"{' '.join(command)} failed: {log.read_text()[-1000:]}")
    return FileRun(seconds, 1024 * usage.ru_maxrss)
