"""How fast the machine multiplies the model's matrices, and what a training step does; a process of its own."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from fastserve_core.data import load_dataset
from fastserve_core.events import Event, Step
from fastserve_core.processes import child_main
from fastserve_core.tasks import load_task
from fastserve_torch_ddp.data.tokens import tokenize
from fastserve_torch_ddp.job import TrainingJob
from fastserve_torch_ddp.ops import precision
from fastserve_torch_ddp.trainer import Trainer

WARM_STEPS = 5
PRODUCT_SECONDS = 0.2
OPTIMIZER = "the optimizer"
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "attention")
COPIES = ("copy_", "clone", "cat", "index", "gather", "embedding", "fill_", "zero_", "scatter")


def measure(threads: int, steps: int, **request: Any) -> dict[str, Any]:
    """Rates in operations a second of the products alone and of whole steps, and the parts of a step by time."""
    precision.configure_process(request["options"], threads)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    task, data = load_task(*request["task"]), load_dataset(Path(request["data"]))
    tokens = tokenize(task, Path(request["model"]), data, "train")
    job = TrainingJob(threads=threads, tokens=str(tokens), steps=WARM_STEPS + 2 * steps, seed=0, **request)
    trainer = Trainer(job)
    weights = encoder_weights(trainer.method.model)
    low = trainer.precision.matmul_dtype
    watch = Watch(trainer, steps)
    trainer.train()
    dist.destroy_process_group()
    return {
        "threads": threads,
        "tokens_a_step": round(watch.tokens / steps),
        "step_seconds": watch.seconds / steps,
        "step_rate": 6 * sum(one.numel() for one in weights) * watch.tokens / watch.seconds,
        "format": str(low).removeprefix("torch."),
        "product_rate": product_rate(weights, round(watch.tokens / steps), low),
        "parts": watch.parts(),
    }


def encoder_weights(model: nn.Module) -> list[Tensor]:
    """The matrices that every token is multiplied with."""
    named = model.named_parameters()
    return [one.detach() for name, one in named if one.ndim == 2 and "embeddings" not in name]


class Watch:
    """Lets a training warm up, times some steps, and profiles as many again."""

    def __init__(self, trainer: Trainer, steps: int) -> None:
        self.trainer, self.steps = trainer, steps
        self.profiler = profile(activities=[ProfilerActivity.CPU])
        self.seconds, self.tokens, self.profiled = 0.0, 0, 0.0
        trainer.write_event = self.told
        mark(trainer.strategy.optimizer)

    def told(self, event: Event) -> None:
        if not isinstance(event, Step):
            return
        now, tokens = time.perf_counter(), self.trainer.tokens
        if event.step == WARM_STEPS:
            self.begun, self.before = now, tokens
        elif event.step == WARM_STEPS + self.steps:
            self.seconds, self.tokens = now - self.begun, tokens - self.before
            self.profiler.start()
            self.begun = time.perf_counter()
        elif event.step == WARM_STEPS + 2 * self.steps:
            self.profiled = now - self.begun
            self.profiler.stop()

    def parts(self) -> dict[str, float]:
        """The shares of a profiled step; what is in no operator is Python and waiting."""
        spent: Counter[str] = Counter()
        for one in self.profiler.events():  # type: ignore[no-untyped-call]
            spent[part_of(one)] += one.self_cpu_time_total / 1e6
        named = {name: seconds / self.profiled for name, seconds in spent.most_common()}
        return {name: round(share, 3) for name, share in (named | {"Python": 1 - sum(named.values())}).items()}


def mark(optimizer: Any) -> None:
    """Have the profiler see the optimizer's two calls as one part."""
    for name in ("accumulate", "step"):
        setattr(optimizer, name, _marked(getattr(optimizer, name)))


def _marked(function: Any) -> Any:
    def call(*arguments: Any) -> Any:
        with record_function(OPTIMIZER):
            return function(*arguments)

    return call


def part_of(event: Any) -> str:
    """Which part of a step an operator belongs to."""
    above = event
    while above is not None:
        if above.name == OPTIMIZER:
            return OPTIMIZER
        above = above.cpu_parent
    name = event.name.removeprefix("aten::").removeprefix("_")
    if any(word in name for word in PRODUCTS):
        return "products"
    return "copies and look-ups" if any(word in name for word in COPIES) else "element-wise and the rest"


def product_rate(weights: list[Tensor], rows: int, low: torch.dtype) -> float:
    """Operations a second of the three products that training does with each matrix, one by one."""
    operations = seconds = 0.0
    for (outer, inner), count in Counter(tuple(one.shape) for one in weights).items():
        given, weight, gradient = (
            torch.randn(*shape, dtype=low) for shape in ((rows, inner), (outer, inner), (rows, outer))
        )
        for left, right in ((given, weight.T), (gradient, weight), (gradient.T, given)):
            seconds += count * product_seconds(left, right)
            operations += count * 2.0 * rows * inner * outer
    return operations / seconds


def product_seconds(left: Tensor, right: Tensor) -> float:
    times, end = list[float](), time.perf_counter() + PRODUCT_SECONDS
    for number in itertools.count():
        begin = time.perf_counter()
        torch.mm(left, right)
        times.append(time.perf_counter() - begin)
        if number >= 10 and time.perf_counter() > end:
            return statistics.median(times)
    raise AssertionError


if __name__ == "__main__":
    child_main(measure)
