"""The calibration before a training: real steps of the model on this machine, stored by processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastserve_core.artifacts import Store, read_json, result_id, stable_hash, write_json
from fastserve_core.plugins import TrainContext
from fastserve_core.processes import read_processor, run_in_child
from fastserve_torch_ddp.fork_server import PRELOADED_MODULES
from fastserve_torch_ddp.options import DDPOptions

FORMAT = 1
"""Increment when the measurement changes."""
FREE_OPTIONS = (
    *("epochs", "eval_steps", "patience", "lr", "schedule", "warmup_ratio", "weight_decay", "layer_decay"),
    *("max_grad_norm", "label_smoothing", "class_weights", "adapter_alpha", "checkpoint_every_s", "max_restarts"),
    *("rdzv_endpoint", "rdzv_id", "rdzv_timeout_s"),
)
"""Options that do not change the time of a step."""
RECORD = "calibration.json"


@dataclass(frozen=True)
class StepCosts:
    """The measured times of a training's parts.

    Attributes:
        start_seconds: The time to start and end the ranks, with the model, and to prepare for the shapes of batches.
        epoch_steps: The number of optimizer steps of an epoch.
        epoch_seconds: The time of these steps.
        evaluation_seconds: The time of an evaluation on the validation split.
    """

    start_seconds: float
    epoch_steps: int
    epoch_seconds: float
    evaluation_seconds: float

    def training_seconds(self, options: DDPOptions, steps: int | None = None) -> float:
        """Return the time of a training; several machines are taken to share the work evenly, at no cost.

        Args:
            options: The trainer's options.
            steps: The maximum number of optimizer steps.
        """
        total = self.epoch_steps * options.epochs
        total = min(steps or total, total)
        evaluations = -(-total // (options.eval_steps or self.epoch_steps))
        work = self.epoch_seconds * total / self.epoch_steps + evaluations * self.evaluation_seconds
        return self.start_seconds + work / options.nnodes


def calibrate(run: TrainContext, options: DDPOptions) -> StepCosts:
    """Return the costs of a training on this machine; they are measured once for each processor.

    Args:
        run: The context of the stage.
        options: The trainer's options.

    Raises:
        UserError: The training would raise it too.
        StageError: A step failed.
    """
    store = Store(run.data.folder.parents[1])  # the data is a result of the store
    with store.claim(result_id("calibration", "torch_ddp", stable_hash(_cache_key(run, options)))) as claim:
        if not claim.is_published:
            result = claim.partial / "result"
            result.mkdir(exist_ok=True)
            write_json(result / RECORD, _measure(run, options, claim.partial / "work"))
            claim.publish(result)
        return StepCosts(**read_json(claim.final / RECORD))


def _measure(run: TrainContext, options: DDPOptions, folder: Path) -> Mapping[str, Any]:
    folder.mkdir(exist_ok=True)
    single_node = {"nnodes": 1, "rdzv_endpoint": None, "rdzv_id": None, "max_restarts": 0}
    costs: Mapping[str, Any] = run_in_child(
        "fastserve_torch_ddp.launch",
        {
            "model": run.model.folder,
            "data": run.data.folder,
            "task": [run.task.name, vars(run.task.options), list(run.labels)],
            "folder": folder,
            "options": asdict(options) | single_node,
            "steps": None,
            "seed": run.seed,
            "cores": run.threads,
            "calibrates": True,
        },
        run.threads,
        run.emit,
        PRELOADED_MODULES,
    )
    return costs


def _cache_key(run: TrainContext, options: DDPOptions) -> list[Any]:
    processor = read_processor()
    return [
        FORMAT,
        [processor.label, sorted(processor.features), run.threads],
        [version(name) for name in ("fastserve-core", "torch", "transformers")],
        [run.model.digest, run.task.name, vars(run.task.options), run.data.fingerprint],
        {name: value for name, value in asdict(options).items() if name not in FREE_OPTIONS},
    ]
