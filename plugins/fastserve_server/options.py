"""What the servers can be told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from fastserve_core.artifacts import parse_named_path
from fastserve_core.errors import ErrorCollector, InvalidOption

SCHEDULERS = ("fcfs", "mlfq")
SHADOW, CANARY = "shadow", "canary"
TOO_LONG = ("truncate", "refuse")
STDOUT = "-"
"""As an ``access_log``: the server's own output."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass
class ServingOptions:
    """What every server of the application takes.

    ``name`` is the model's in URLs (the artifact's folder when null). ``models`` are further models beside it, each the
    folder of an artifact or of a run, or ``NAME:FOLDER``; requests say which they ask. ``workers`` answer batches
    side by side, each with a copy of the model; null takes one for each core. Limits of one request: ``max_inputs``,
    ``max_body_bytes``, ``max_new_tokens``, ``request_timeout_s`` from its first byte to its answer. ``max_queue`` is in
    inputs that wait; ``max_delay_ms`` is how long the oldest of them may wait for a fuller batch. ``keys`` is a file
    with an API key a line: with it, or with keys in ``FASTSERVE_API_KEYS``, requests without one are refused.
    ``access_log`` is a file that gets a line of JSON for each request, or ``-`` for the server's own output.
    ``traces`` is the address of an OpenTelemetry collector (OTLP over HTTP), which gets a span for each request.
    ``truncation`` is what becomes of an input that is longer than the model reads: ``truncate`` cuts it and says so in
    the answer, ``refuse`` does not answer it.
    A language model writes up to ``max_batch`` texts side by side, in the order of ``scheduler``: ``fcfs``, first come
    first served, or ``mlfq``, what has had little before what has had much; ``kv_cache_mb`` is for their
    keys and values.
    """

    where: ClassVar[str] = "serve"

    name: str | None = None
    models: list[str] = field(default_factory=list)
    workers: int | None = None
    max_batch: int = 32
    max_delay_ms: float = 0.0
    max_queue: int = 1024
    max_inputs: int = 256
    max_body_bytes: int = 1_000_000
    max_new_tokens: int = 256
    request_timeout_s: float = 30.0
    api_keys_file: str | None = None
    access_log: str | None = None
    otlp_endpoint: str | None = None
    truncation: str = "truncate"
    scheduler: str = "mlfq"
    kv_cache_mb: int = 512

    def __post_init__(self) -> None:
        faults = ErrorCollector()
        self.check(faults)
        faults.raise_if_any()

    def check(self, faults: ErrorCollector) -> None:
        """Collect every fault of the options."""
        for name in (
            "workers",
            "max_batch",
            "max_queue",
            "max_inputs",
            "max_body_bytes",
            "max_new_tokens",
            "kv_cache_mb",
        ):
            self.at_least(faults, name, 1)
        self.at_least(faults, "max_delay_ms", 0)
        with faults.collect():
            if self.request_timeout_s <= 0:
                raise InvalidOption(
                    f"{self.where}.request_timeout_s must be more than 0 seconds, not {self.request_timeout_s}"
                )
        for option, one in (("name", self.name), *(("models", parse_named_path(model)[0]) for model in self.models)):
            with faults.collect():
                if one is not None and not NAME.fullmatch(one):
                    raise InvalidOption(
                        f"{self.where}.{option}={one!r}: use letters, digits, '.', '_' and '-', as in a URL"
                    )
        self.one_of(faults, "scheduler", SCHEDULERS)
        self.one_of(faults, "truncation", TOO_LONG)
        with faults.collect():
            if self.max_inputs > self.max_queue:
                raise InvalidOption(
                    f"{self.where}.max_inputs ({self.max_inputs}) must not be more than "
                    f"{self.where}.max_queue ({self.max_queue}): such a request could never wait"
                )

    def one_of(self, faults: ErrorCollector, name: str, known: tuple[str, ...]) -> None:
        """Collect the fault of an option that is none of the words it may be."""
        with faults.collect():
            if (value := getattr(self, name)) not in known:
                raise InvalidOption(f"{self.where}.{name} must be {' or '.join(known)}, not '{value}'")

    def at_least(self, faults: ErrorCollector, name: str, least: float, most: float | None = None) -> None:
        """Collect the fault of an option that lies outside its range; null is in every range."""
        value = getattr(self, name)
        with faults.collect():
            if value is not None and value < least:
                raise InvalidOption(f"{self.where}.{name} must be at least {least}, not {value}")
            if value is not None and most is not None and value > most:
                raise InvalidOption(f"{self.where}.{name} must be at most {most}, not {value}")


@dataclass
class ServerOptions(ServingOptions):
    """The embedded server's: ``port`` 0 takes any free one; ``drain_s`` is what open requests get at the end.

    ``candidate`` is another artifact's folder, or a run's, for the first model's task and labels. With
    ``candidate_mode=shadow`` it is asked ``candidate_share`` of what the model was asked, and nobody gets its answers;
    with ``canary`` it answers that share. It is not asked any more once more than ``candidate_max_disagreement`` of
    its last ``candidate_window`` answers differ from the model's, or its median time for as many requests is more
    than ``candidate_max_slowdown`` times the model's.
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
        super().check(faults)
        self.at_least(faults, "port", 0, 65535)
        self.at_least(faults, "drain_s", 0)
        self.at_least(faults, "candidate_window", 1)
        self.at_least(faults, "candidate_max_disagreement", 0, 1)
        self.one_of(faults, "candidate_mode", (SHADOW, CANARY))
        for name, most in (("candidate_share", 1.0), ("candidate_max_slowdown", float("inf"))):
            with faults.collect():
                if not 0 < getattr(self, name) <= most:
                    limit = "" if most == float("inf") else f" and at most {most:g}"
                    raise InvalidOption(f"{self.where}.{name} must be more than 0{limit}, not {getattr(self, name)}")
