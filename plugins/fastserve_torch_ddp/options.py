"""The trainer's options and their checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fastserve_core.errors import ErrorCollector, OptionError, did_you_mean

OPTION_PATH = "train.torch_ddp"
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
    """Options of the trainer, checked when they are created (``OptionError``).

    ``batch_size`` counts the samples of one optimizer step over all ranks and accumulated batches; ``batch_tokens``,
    if set, bounds the tokens of that step, padding included, instead.

    ``nproc`` null means one rank for each GPU, or on CPUs one for each core if the model and the batch are large
    enough. ``precision`` auto means bf16 with fp32 master weights if the CPU or GPU supports it.
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
        faults = [
            *(f"{name} must be at least 1, not {value}" for name, value in self._values(AT_LEAST_ONE) if value < 1),
            *(f"{name} must be at least 0, not {value}" for name, value in self._values(AT_LEAST_ZERO) if value < 0),
            *(f"{name} must be above 0, not {value}" for name, value in self._values(ABOVE_ZERO) if value <= 0),
            *(
                f"{name} must be in [0, 1), not {value}"
                for name, value in self._values(FRACTIONS)
                if not 0 <= value < 1
            ),
        ]
        if not 0 < self.layer_decay <= 1:
            faults.append(f"layer_decay must be in (0, 1], not {self.layer_decay}")
        _raise_faults(faults)

    def _check_choices(self) -> None:
        _raise_faults(
            f"{name} must be one of {', '.join(allowed)}, not '{getattr(self, name)}'"
            + did_you_mean(getattr(self, name), allowed)
            for name, allowed in CHOICES.items()
            if getattr(self, name) not in allowed
        )

    def _check_machines(self) -> None:
        faults = []
        if self.nnodes > 1:
            faults += [
                f"{name} is missing: all nnodes={self.nnodes} nodes need the same value"
                for name in ("rdzv_endpoint", "rdzv_id")
                if not getattr(self, name)
            ]
        microbatches = self.gradient_accumulation_steps * (self.nproc or 1) * self.nnodes
        if self.batch_tokens is None and self.batch_size < microbatches:
            faults.append(
                f"batch_size={self.batch_size} cannot be divided into {microbatches} microbatches "
                "(nproc x nnodes x gradient_accumulation_steps)"
            )
        _raise_faults(faults)

    def _check_combinations(self) -> None:
        local_sgd, has_adapters = self.local_sgd_steps > 1, self.method != "full"
        is_compressed, has_ema = self.gradient_compression != "none", self.ema_decay is not None
        sharded = {"local_sgd_steps": local_sgd, "gradient_compression": is_compressed, "method": has_adapters}
        exclusive = {
            "sharding=zero": sharded,
            "sharding=fsdp": {**sharded, "ema_decay": has_ema, "compile": self.compile},
            "local_sgd_steps": {
                "ema_decay": has_ema,
                "gradient_compression": is_compressed,
                "method=adalora": self.method == "adalora",
            },
        }
        chosen = {f"sharding={self.sharding}", "local_sgd_steps" if local_sgd else ""}
        _raise_faults(
            f"{option} and {other} cannot be combined"
            for option, others in exclusive.items()
            for other, is_set in others.items()
            if option in chosen and is_set
        )

    def _values(self, names: tuple[str, ...]) -> list[tuple[str, float]]:
        """Return the options that are not null, with their values."""
        return [(name, getattr(self, name)) for name in names if getattr(self, name) is not None]


def _raise_faults(faults: Iterable[str]) -> None:
    message = "\n".join(f"{OPTION_PATH}.{fault}" for fault in faults)
    if message:
        raise OptionError(message)
