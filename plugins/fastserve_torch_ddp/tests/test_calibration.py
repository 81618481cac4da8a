"""The calibration: what steps cost, what a training will take, and when it is measured again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastserve_core.artifacts import Store
from fastserve_core.config import DataOptions, ModelSpec
from fastserve_core.data import prepare_dataset
from fastserve_core.models import resolve_model
from fastserve_core.plugins import TrainContext
from fastserve_core.tasks import Encoded, load_task
from fastserve_torch_ddp import calibration, step_timing
from fastserve_torch_ddp.build import BatchCollator
from fastserve_torch_ddp.calibration import StepCosts, calibrate
from fastserve_torch_ddp.checkpointing.validation import TrainState
from fastserve_torch_ddp.data.batches import epoch_batches
from fastserve_torch_ddp.estimate import estimate
from fastserve_torch_ddp.ops.precision import Precision
from fastserve_torch_ddp.options import DDPOptions


class Clock:
    """A clock that moves when a part of the training says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class TimedTrainer:
    """A trainer whose steps take a constant time and a time for each padded token, the first of a size more."""

    score_batch_size = 64

    def __init__(self, clock: Clock, constant: float, per_token: float) -> None:
        self.clock, self.constant, self.per_token = clock, constant, per_token
        lengths = np.random.default_rng(0).integers(4, 120, 1000)
        self.examples_of_all = [Encoded({"input_ids": [1] * int(length)}) for length in lengths]
        self.all_batches = epoch_batches(lengths, 32, None, 0, 0)
        self.validation = self.examples_of_all[:500]
        self.schedule = self.method = self.model = self.task = self.collate = self.precision = self
        self.progress, self.seen = TrainState(), set[int]()

    def train(self) -> None: ...

    def examples(self, epoch: int) -> list[Encoded]:
        return self.examples_of_all

    def batches(self, examples: list[Encoded], epoch: int) -> list[Any]:
        return self.all_batches

    def take_step(self, examples: list[Encoded], batch: Any) -> None:
        longest = max(len(examples[index]) for index in batch)
        self.clock.now += self.constant + self.per_token * len(batch) * longest
        self.clock.now += 0.0 if longest in self.seen else 5.0
        self.seen.add(longest)

    def collect_statistics(self, model: Any, task: Any, examples: list[Encoded], collate: Any, precision: Any) -> None:
        self.clock.now += 0.01 * len(examples)


@pytest.mark.parametrize(("constant", "per_token"), [(0.01, 1e-4), (0.3, 1e-6), (0.0, 1e-3), (2.0, 0.0)])
def test_an_epochs_time_follows_from_a_few_steps(
    constant: float, per_token: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    trainer: Any = TimedTrainer(clock, constant, per_token)
    monkeypatch.setattr(step_timing, "time", clock)
    monkeypatch.setattr(step_timing, "collect_statistics", trainer.collect_statistics)
    costs = step_timing.time_steps(trainer)
    shapes = step_timing.batch_shapes(trainer.examples_of_all, trainer.all_batches)
    sizes = shapes.prod(axis=1)
    assert costs["preparation_seconds"] == pytest.approx(5.0 * len({tuple(shape) for shape in shapes}))
    assert costs["epoch_steps"] == len(sizes) == 32
    assert costs["epoch_seconds"] == pytest.approx(constant * len(sizes) + per_token * sizes.sum(), rel=0.01)
    assert costs["evaluation_seconds"] == pytest.approx(0.01 * 500)
    assert costs["seconds"] == pytest.approx(clock.now)
    assert trainer.progress.step <= 3 * (1 + step_timing.MAX_PASSES)


def test_an_evaluation_is_timed_on_a_part_of_the_windows_of_long_rows(tiny_bert: Path, on_ranks: Any) -> None:
    """The part lacks windows of most rows, so that these rows cannot be scored."""
    task = load_task("token_classification", {"max_length": 16}, ["B-x", "O"])

    rows = [{"tokens": ["film"] * length, "tags": ["O"] * length} for length in range(20, 140)]
    windows = task.examples(task.encoder(tiny_bert)(rows), "validation")
    model = task.build(tiny_bert)  # here: a forked process has none of the threads that read files

    def time_part() -> float:
        import torch

        trainer: Any = SimpleNamespace(
            method=SimpleNamespace(model=model),
            task=task,
            validation=[windows[number] for number in range(len(windows))],
            collate=BatchCollator(task, model, torch.device("cpu")),
            precision=Precision(torch.float32, None),
        )
        return step_timing._time_evaluation(trainer)

    assert on_ranks(1, time_part)[0] > 0


def test_noise_does_not_make_longer_batches_cheaper() -> None:
    sizes, times = np.array([100.0, 200.0, 300.0]), np.array([3.0, 2.0, 1.0])
    assert step_timing.predict_seconds(sizes, times, np.array([50.0, 400.0])).tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("options", "steps", "seconds"),
    [
        ({"epochs": 3}, None, 5 + 3 * 20 + 3 * 2),
        ({"epochs": 1}, None, 5 + 20 + 2),
        ({"epochs": 3}, 40, 5 + 8 + 2),
        ({"epochs": 1, "eval_steps": 30}, None, 5 + 20 + 4 * 2),
        ({"epochs": 1, "nnodes": 2, "rdzv_endpoint": "a:1", "rdzv_id": "x"}, None, 5 + 10 + 1),
    ],
)
def test_a_trainings_time_is_the_sum_of_its_parts(options: dict[str, Any], steps: int | None, seconds: float) -> None:
    costs = StepCosts(start_seconds=5, epoch_steps=100, epoch_seconds=20, evaluation_seconds=2)
    assert costs.training_seconds(DDPOptions(**options), steps) == pytest.approx(seconds)


@pytest.fixture
def run(tmp_path: Path, tiny_bert: Path, reviews: Path) -> TrainContext:
    store = Store(tmp_path / "home")
    task = load_task("text_classification", {})
    data = prepare_dataset(DataOptions(train=str(reviews)), task, store, lambda _: None)
    model = resolve_model(ModelSpec("checkpoint", path=str(tiny_bert)), task, data, store, 0)
    task = load_task("text_classification", {}, data.labels)
    return TrainContext(model=model, task=task, folder=store.home, seed=0, threads=2, emit=lambda _: None, data=data)


def test_a_short_training_is_not_calibrated(run: TrainContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_measure", None)
    found = estimate(run, DDPOptions(epochs=1))
    assert not found.is_measured
    assert found.seconds < 60
    assert found.processor


@pytest.mark.slow
def test_real_steps_are_timed_once_for_each_processor(run: TrainContext, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = calibrate(run, DDPOptions(batch_size=16))
    assert costs.epoch_steps == -(-run.data.counts["train"] // 16)
    assert 0 < costs.epoch_seconds < 60
    assert 0 < costs.evaluation_seconds < 60
    assert costs.start_seconds > 0
    measured = []
    monkeypatch.setattr(calibration, "_measure", lambda *_: measured.append(1) or vars(replace(costs, epoch_steps=1)))
    assert calibrate(run, DDPOptions(batch_size=16, lr=1e-3, epochs=7)) == costs
    assert not measured
    assert calibrate(run, DDPOptions(batch_size=16, precision="fp32")).epoch_steps == 1
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert calibrate(run, DDPOptions(batch_size=16)).epoch_steps == 1
    assert len(measured) == 2
