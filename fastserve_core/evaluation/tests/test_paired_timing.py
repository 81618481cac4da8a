"""Models timed in turn: ratios of the same rounds, kept in the store."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastserve_core.artifacts.artifact import TRAINABLE, Artifact, Manifest, write_manifest
from fastserve_core.artifacts.files import copy_tree
from fastserve_core.artifacts.hashing import hash_files
from fastserve_core.artifacts.store import Store
from fastserve_core.config.nodes import DataOptions
from fastserve_core.data.prepare import prepare_dataset
from fastserve_core.evaluation import paired_timing
from fastserve_core.evaluation.gate import Speedup
from fastserve_core.evaluation.paired_timing import cached_speedups, measure_speedups
from fastserve_core.tasks.load import load_task


def test_the_ratio_is_the_median_of_rounds_in_which_each_takes_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    clock = [0.0]
    monkeypatch.setattr(paired_timing, "ROUNDS", 5)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def work(number: int, place: int) -> None:
        begins = not calls or calls[-1][0] != number
        calls.append((number, place))
        busy = len(calls) in (9, 10)  # something else slows one round down
        clock[0] += 0.002 * (1 + 3 * number) + (0.05 if busy or begins else 0)  # and the others' caches each beginning

    (ratio,) = paired_timing.measure_ratios(work, 2, repeats=3)
    assert ratio == pytest.approx(4)
    assert calls[:6] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert calls[6:12] == [(1, 1), (1, 2), (1, 3), (0, 1), (0, 2), (0, 3)]
    assert len(calls) == 5 * 2 * 3


def published(folder: Path, source: Path) -> Artifact:
    copy_tree(source, folder)
    runtime = {"engine": "torch", "form": TRAINABLE}
    labels = ("negative", "positive")
    return write_manifest(folder, Manifest("text_classification", {}, labels, runtime, (), hash_files(folder)))


def test_measurements_are_repeated_until_their_medians_decide(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bert: Path
) -> None:
    found = [{"latency": latency, "throughput": 1.0} for latency in (0.9, 0.96, 1.0, 9.0)]
    monkeypatch.setattr(paired_timing, "run_in_child", lambda *_: [found.pop(0)])
    data: Any = SimpleNamespace(folder=tmp_path, fingerprint="rows")
    models = [published(tmp_path / name, tiny_bert) for name in "ab"]

    def measure(bound: float, name: str) -> list[Speedup]:
        store, is_decided = Store(tmp_path / name), lambda speedups: speedups[0].latency >= bound
        speedups = measure_speedups(store, models, data, lambda _: None, is_decided)
        assert cached_speedups(store, models, data, is_decided) == speedups
        assert cached_speedups(store, models, data) is not None
        return speedups

    assert measure(0.93, "two") == [Speedup(0.93, 1.0)]
    assert found == [{"latency": 1.0, "throughput": 1.0}, {"latency": 9.0, "throughput": 1.0}]
    found[:] = [{"latency": latency, "throughput": 1.0} for latency in (0.9, 0.91, 1.0, 9.0)]
    assert measure(0.93, "three") == [Speedup(0.91, 1.0)]
    assert len(found) == 1


@pytest.mark.slow
def test_a_model_is_as_fast_as_its_copy_and_is_timed_once(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    store, task = Store(tmp_path / "store"), load_task("text_classification", {})
    data = prepare_dataset(DataOptions(train=str(reviews)), task, store, print)
    models = [published(tmp_path / name, tiny_bert) for name in "ab"]
    assert cached_speedups(store, models, data) is None
    (found,) = measure_speedups(store, models, data, lambda _: None)
    assert 0.6 < found.latency < 1.6
    assert 0.6 < found.throughput < 1.6
    begin = time.perf_counter()
    assert measure_speedups(store, models, data, lambda _: None) == cached_speedups(store, models, data) == [found]
    assert time.perf_counter() - begin < 0.5
