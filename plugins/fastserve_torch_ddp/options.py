"""The trainer's options, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastserve_core.errors import ErrorCollector, InvalidOption, did_you_mean

HERE = "train.torch_ddp"
CHOICES = {
    "schedule": ("linear", "cosine", "constant"),
    "method": ("full", "lora", "adalora", "bottleneck"),
    "precision": ("auto", "fp32", "bf16"),
    "sharding": ("auto", "none", "zero", "fsdp"),
    "gradient_compression": ("none", "bf16", "fp16", "powersgd"),
}
AT_LEAST_ONE = (
    *("epochs", "batch_size", "batch_tokens", "gradient_accumulation_steps", "eval_steps", "patience"),
    *("adapter_rank", "nproc", "nnodes", "local_sgd_steps"),
)
AT_LEAST_ZERO = ("weight_decay", "max_restarts", "checkpoint_every_s")
ABOVE_ZERO = ("lr", "max_grad_norm", "adapter_alpha", "rdzv_timeout_s")
FRACTIONS = ("warmup_ratio", "label_smoothing", "adapter_dropout", "ema_decay")
"""From 0 up to, but not including, 1."""


@dataclass
class DDPOptions:
    """``batch_size`` counts the samples of one optimizer step over all ranks and accumulated batches;
    ``batch_tokens``, where given, bounds that step's tokens (padding included) instead.

    ``nproc`` null means one rank a GPU; on CPUs one a core, where the model and the batch are large enough.
    ``precision`` auto means bf16 with fp32 master weights where the CPU or GPU has it.
    """

    epochs: int = 3
    batch_size: int = 32
    batch_tokens: int | None = None
    gradient_accumulation_steps: int = 1
    eval_steps: int | None = None
    patience: int | None = None

    lr: float = 5e-5
    schedule: str = "linear"
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    layer_decay: float = 1.0
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    class_weights: Any = None
    ema_decay: float | None = None

    method: str = "full"
    adapter_rank: int = 8
    adapter_alpha: float = 16.0
    adapter_dropout: float = 0.0
    adapter_targets: list[str] | None = None
    freeze: list[str] = field(default_factory=list)

    precision: str = "auto"
    deterministic: bool = False
    compile: bool = False
    activation_checkpointing: bool = False

    nproc: int | None = None
    nnodes: int = 1
    rdzv_endpoint: str | None = None
    rdzv_id: str | None = None
    rdzv_timeout_s: float = 600.0
    max_restarts: int = 2
    sharding: str = "auto"
    gradient_compression: str = "none"
    local_sgd_steps: int = 1
    checkpoint_every_s: float = 60.0

    def __post_init__(self) -> None:
        faults = ErrorCollector()
        for check in (self._check_ranges, self._check_choices, self._check_machines, self._check_combinations):
            with faults.collect():
                check()
        faults.raise_if_any()

    def _check_ranges(self) -> None:
        wrong = [
            *(f"{name} must be at least 1, not {value}" for name, value in self._given(AT_LEAST_ONE) if value < 1),
            *(f"{name} must be at least 0, not {value}" for name, value in self._given(AT_LEAST_ZERO) if value < 0),
            *(f"{name} must be above 0, not {value}" for name, value in self._given(ABOVE_ZERO) if value <= 0),
        ]
        wrong += [f"{name} must lie in [0, 1), not {one}" for name, one in self._given(FRACTIONS) if not 0 <= one < 1]
        if not 0 < self.layer_decay <= 1:
            wrong.append(f"layer_decay must lie in (0, 1], not {self.layer_decay}")
        _refuse(wrong)

    def _check_choices(self) -> None:
        _refuse(
            f"{name} must be one of {', '.join(allowed)}, not '{getattr(self, name)}'"
            + did_you_mean(getattr(self, name), allowed)
            for name, allowed in CHOICES.items()
            if getattr(self, name) not in allowed
        )

    def _check_machines(self) -> None:
        wrong = []
        if self.nnodes > 1:
            wrong += [
                f"{name} is missing: every node of nnodes={self.nnodes} needs the same one"
                for name in ("rdzv_endpoint", "rdzv_id")
                if not getattr(self, name)
            ]
        parts = self.gradient_accumulation_steps * (self.nproc or 1) * self.nnodes
        if self.batch_tokens is None and self.batch_size < parts:
            wrong.append(
                f"batch_size={self.batch_size} cannot be shared by {parts} "
                "(nproc x nnodes x gradient_accumulation_steps)"
            )
        _refuse(wrong)

    def _check_combinations(self) -> None:
        averaged, adapted = self.local_sgd_steps > 1, self.method != "full"
        compressed, mean = self.gradient_compression != "none", self.ema_decay is not None
        together = {
            "sharding=zero": {"local_sgd_steps": averaged, "gradient_compression": compressed, "method": adapted},
            "sharding=fsdp": {"local_sgd_steps": averaged, "gradient_compression": compressed, "method": adapted}
            | {"ema_decay": mean, "compile": self.compile},
            "local_sgd_steps": {"ema_decay": mean, "gradient_compression": compressed}
            | {"method=adalora": self.method == "adalora"},
        }
        chosen = {f"sharding={self.sharding}", "local_sgd_steps" if averaged else ""}
        _refuse(
            f"{one} and {other} cannot be combined"
            for one, others in together.items()
            for other, given in others.items()
            if one in chosen and given
        )

    def _given(self, names: tuple[str, ...]) -> list[tuple[str, float]]:
        return [(name, getattr(self, name)) for name in names if getattr(self, name) is not None]


def _refuse(faults: Any) -> None:
    found = [f"{HERE}.{fault}" for fault in faults]
    if found:
        raise InvalidOption("\n".join(found))
