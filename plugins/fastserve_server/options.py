"""Options of the servers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from fastserve_core.artifacts import parse_named_path
from fastserve_core.errors import ErrorCollector, OptionError

SCHEDULERS = ("fcfs", "mlfq")
SHADOW, CANARY = "shadow", "canary"
STDOUT = "-"
"""Value of ``access_log`` for the server's own output."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
POSITIVE_OPTIONS = (
    "workers",
    "max_batch",
    "max_queue",
    "max_inputs",
    "max_windows",
    "max_body_bytes",
    "max_new_tokens",
    "kv_cache_mb",
)


@dataclass
class ServingOptions:
    """Options that all servers have.

    Each entry of ``models`` is the folder of an artifact or of a run, or ``NAME:FOLDER``; requests select a model by
    its name. Each entry of ``adapters`` is the folder of a LoRA adapter, or of an artifact or a run that was trained
    with LoRA, or ``NAME:FOLDER``; a request for ``MODEL:NAME`` is answered by the first model with this adapter. With
    ``api_keys_file``, or keys in ``FASTSERVE_API_KEYS``, requests without a valid key are rejected.
    If ``truncation`` is true, an input longer than the model reads is cut and its answer has ``"truncated": true``;
    if it is false, the request is rejected. Some tasks read long inputs in windows and cut nothing; ``max_windows``
    limits the windows of one request. A language model generates up to ``max_batch`` texts at a time, in the order of
    ``scheduler``: ``fcfs`` is first come, first served; ``mlfq`` prefers texts with few tokens so far. With
    ``guessed_tokens``, up to so many of a text's next tokens are guessed from its repetitions, and checked in one pass.
    """

    where: ClassVar[str] = "serve"

    name: str | None = None
    models: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    workers: int | None = None
    max_batch: int = 32
    max_delay_ms: float = 0.0
    max_queue: int = 1024
    max_inputs: int = 256
    max_windows: int = 256
    max_body_bytes: int = 1_000_000
    max_new_tokens: int = 256
    request_timeout_s: float = 30.0
    api_keys_file: str | None = None
    access_log: str | None = None
    otlp_endpoint: str | None = None
    truncation: bool = True
    scheduler: str = "mlfq"
    kv_cache_mb: int = 512
    guessed_tokens: int = 0

    def __post_init__(self) -> None:
        faults = ErrorCollector()
        self.check(faults)
        faults.raise_if_any()

    def check(self, faults: ErrorCollector) -> None:
        """Check the values of all options.

        Args:
            faults: Collects an ``OptionError`` for each wrong value.
        """
        for name in POSITIVE_OPTIONS:
            self.check_range(faults, name, 1)
        self.check_range(faults, "max_delay_ms", 0)
        self.check_range(faults, "guessed_tokens", 0)
        with faults.collect():
            if self.request_timeout_s <= 0:
                raise OptionError(
                    f"{self.where}.request_timeout_s must be more than 0 seconds, not {self.request_timeout_s}"
                )
        self._check_names(faults)
        self.check_choice(faults, "scheduler", SCHEDULERS)
        with faults.collect():
            if self.max_inputs > self.max_queue:
                raise OptionError(
                    f"{self.where}.max_inputs ({self.max_inputs}) must not be more than "
                    f"{self.where}.max_queue ({self.max_queue}): the queue has no room for such a request"
                )

    def _check_names(self, faults: ErrorCollector) -> None:
        adapters = [parse_named_path(adapter)[0] for adapter in self.adapters]
        names = [("name", self.name), *(("models", parse_named_path(model)[0]) for model in self.models)]
        names += [("adapters", name) for name in adapters]
        for option, name in names:
            with faults.collect():
                if name is not None and not NAME.fullmatch(name):
                    raise OptionError(
                        f"{self.where}.{option}={name!r}: use letters, digits, '.', '_' and '-', as in a URL"
                    )

        for name in sorted({name for name in adapters if adapters.count(name) > 1}):
            with faults.collect():
                raise OptionError(f"{self.where}.adapters: two adapters have the name '{name}': use NAME:FOLDER")

    def check_choice(self, faults: ErrorCollector, name: str, choices: tuple[str, ...]) -> None:
        """Collect an ``OptionError`` if the option ``name`` is not one of ``choices``."""
        with faults.collect():
            if (value := getattr(self, name)) not in choices:
                raise OptionError(f"{self.where}.{name} must be {' or '.join(choices)}, not '{value}'")

    def check_range(self, faults: ErrorCollector, name: str, minimum: float, maximum: float | None = None) -> None:
        """Collect an ``OptionError`` if the option ``name`` is out of its range; ``None`` is always valid."""
        value = getattr(self, name)
        with faults.collect():
            if value is not None and value < minimum:
                raise OptionError(f"{self.where}.{name} must be at least {minimum}, not {value}")
            if value is not None and maximum is not None and value > maximum:
                raise OptionError(f"{self.where}.{name} must be at most {maximum}, not {value}")


@dataclass
class ServerOptions(ServingOptions):
    """Options of the embedded server.

    ``candidate`` is the folder of another artifact, or of a run, for the first model's task and labels. With
    ``candidate_mode=shadow`` it receives ``candidate_share`` of the requests after the model has answered them, and its
    answers are only compared; with ``canary`` it answers that share. It is rolled back when more than
    ``candidate_max_disagreement`` of its last ``candidate_window`` answers differ from the model's, or when its median
    time for as many requests is more than ``candidate_max_slowdown`` times the model's.
    """

    where: ClassVar[str] = "serve.server"

    host: str = "127.0.0.1"
    port: int = 8888
    drain_s: float = 10.0
    candidate: str | None = None
    candidate_mode: str = SHADOW
    candidate_share: float = 0.1
    candidate_window: int = 200
    candidate_max_disagreement: float = 0.05
    candidate_max_slowdown: float = 1.5

    def check(self, faults: ErrorCollector) -> None:
        """Check the values of all options; see ``ServingOptions.check``."""
        super().check(faults)
        self.check_range(faults, "port", 0, 65535)
        self.check_range(faults, "drain_s", 0)
        self.check_range(faults, "candidate_window", 1)
        self.check_range(faults, "candidate_max_disagreement", 0, 1)
        self.check_choice(faults, "candidate_mode", (SHADOW, CANARY))
        for name, maximum in (("candidate_share", 1.0), ("candidate_max_slowdown", float("inf"))):
            with faults.collect():
                if not 0 < getattr(self, name) <= maximum:
                    limit = "" if maximum == float("inf") else f" and at most {maximum:g}"
                    raise OptionError(f"{self.where}.{name} must be more than 0{limit}, not {getattr(self, name)}")
