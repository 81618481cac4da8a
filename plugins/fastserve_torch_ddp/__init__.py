"""Trains with torch's DistributedDataParallel; the ranks are launched by torch's elastic agent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from fastserve_core import hookimpl
from fastserve_core.errors import BadOption
from fastserve_core.events import Preflight
from fastserve_core.run import Draft, Run

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass
class DDPOptions:
    """``batch_size`` counts the samples of one optimizer step over all ranks and accumulated batches.

    ``nproc`` null means one rank a GPU, or one rank with all cores: on one CPU machine threads beat ranks.
    ``precision`` auto means bf16 autocast with fp32 weights where the CPU or GPU has it.
    """

    epochs: int = 3
    batch_size: int = 32
    lr: float = 5e-5
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    patience: int | None = None
    precision: str = "auto"
    nproc: int | None = None
    max_restarts: int = 2
    checkpoint_every_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "gradient_accumulation_steps"):
            _at_least(name, getattr(self, name), 1)
        for name in ("nproc", "patience"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in ("weight_decay", "max_restarts", "checkpoint_every_s"):
            _at_least(name, getattr(self, name), 0)
        if self.lr <= 0 or self.max_grad_norm <= 0:
            raise BadOption(f"train.torch_ddp: lr ({self.lr}) and max_grad_norm ({self.max_grad_norm}) must be above 0")
        if not 0 <= self.warmup_ratio < 1:
            raise BadOption(f"train.torch_ddp.warmup_ratio must lie in [0, 1), not {self.warmup_ratio}")
        if self.precision not in PRECISIONS:
            raise BadOption(f"train.torch_ddp.precision must be one of {', '.join(PRECISIONS)}, not '{self.precision}'")
        parts = self.gradient_accumulation_steps * (self.nproc or 1)
        if self.batch_size < parts:
            raise BadOption(
                f"train.torch_ddp.batch_size={self.batch_size} cannot be shared by {parts} "
                "(nproc x gradient_accumulation_steps)"
            )


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise BadOption(f"train.torch_ddp.{name} must be at least {least}, not {value}")


class TorchDDP:
    """The trainer."""

    api_version: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "safetensors")
    not_in_key: ClassVar[tuple[str, ...]] = ("checkpoint_every_s", "max_restarts")
    Options = DDPOptions

    def __init__(self, options: DDPOptions) -> None:
        self.options = options

    @hookimpl
    def preflight(self, run: Run) -> Preflight:
        from fastserve_torch_ddp.estimate import estimate

        return estimate(run, self.options)

    @hookimpl
    def train(self, run: Run) -> Draft:
        from fastserve_core.children import call

        result: dict[str, Any] = call(
            "fastserve_torch_ddp.launch",
            {
                "model": run.model.folder,
                "data": run.data.folder,
                "task": [run.task.name, vars(run.task.options), list(run.labels)],
                "folder": run.folder,
                "options": asdict(self.options),
                "steps": run.budget.steps,
                "seed": run.seed,
                "cores": run.threads,
            },
            run.threads,
            run.emit,
        )
        return Draft(run.folder / "draft", scores=result["scores"], steps=result["steps"])
