"""The trainer: PyTorch distributed training, launched by torch's elastic agent."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from typing import Any, ClassVar

from fastserve_core import hookimpl
from fastserve_core.artifacts import Artifact
from fastserve_core.errors import MissingPackageError
from fastserve_core.events import Preflight
from fastserve_core.plugins import StagedArtifact, TrainContext, Trainer
from fastserve_torch_ddp.options import DDPOptions


class TorchDDP(Trainer):
    """Trains with PyTorch on the CPUs or GPUs of one or several machines.

    Args:
        options: The options of ``train.torch_ddp``.
    """

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("psutil", "torch", "transformers", "safetensors")
    not_in_key: ClassVar[tuple[str, ...]] = (
        *("checkpoint_every_s", "max_restarts"),
        *("rdzv_endpoint", "rdzv_id", "rdzv_timeout_s"),
    )
    supports_auxiliary_loss: ClassVar[bool] = True
    Options = DDPOptions

    def __init__(self, options: DDPOptions) -> None:
        self.options = options

    def search_space(self, model: Artifact) -> dict[str, Any]:
        """Suggest the ranges of the options that a tuner should search, the most important option first.

        Args:
            model: The model to train.
        """
        from fastserve_torch_ddp.search_space import suggest_search_space

        return suggest_search_space(self.options, model.size_bytes)

    def shorter_options(self) -> list[dict[str, Any]]:
        """Propose fewer epochs."""
        return [{"epochs": epochs} for epochs in range(self.options.epochs - 1, 0, -1)]

    @hookimpl
    def preflight(self, run: TrainContext) -> Preflight:
        """Estimate the training's memory and time.

        Raises:
            MissingPackageError: The fine-tuning method needs peft, which is not installed.
        """
        from fastserve_torch_ddp.estimate import estimate

        if self.options.method in ("lora", "adalora") and find_spec("peft") is None:
            raise MissingPackageError(
                f"train.torch_ddp.method={self.options.method} needs the package peft: "
                "pip install 'fastserve-core[torch_ddp]'"
            )
        return estimate(run, self.options)

    @hookimpl
    def train(self, run: TrainContext) -> StagedArtifact:
        """Train the model in a child process, and return the folder of the best weights with their scores.

        Raises:
            UserError: The input is invalid.
            StageError: The training failed.
        """
        from fastserve_core.processes import run_in_child
        from fastserve_torch_ddp.fork_server import PRELOADED_MODULES

        result: dict[str, Any] = run_in_child(
            "fastserve_torch_ddp.launch",
            {
                "model": run.model.folder,
                "data": run.data.folder,
                "task": [run.task.name, vars(run.task.options), list(run.labels)],
                "folder": run.folder,
                "options": asdict(self.options),
                "steps": run.budget.steps,
                "stop_at_step": run.budget.stop_at_step,
                "seed": run.seed,
                "cores": run.threads,
                "auxiliary_loss": asdict(run.auxiliary_loss) if run.auxiliary_loss is not None else None,
            },
            run.threads,
            run.emit,
            PRELOADED_MODULES,
        )
        costs = {name: result[name] for name in ("seconds", "held_up_s", "peak_memory_bytes")}
        return StagedArtifact(run.folder / "draft", scores=result["scores"], steps=result["steps"], costs=costs)
