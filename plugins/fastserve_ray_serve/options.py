"""Options of the Ray Serve plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastserve_core.errors import ErrorCollector, OptionError
from fastserve_server.options import STDOUT, ServingOptions


@dataclass
class RayServeOptions(ServingOptions):
    """Options of Ray Serve.

    With ``max_replicas``, Ray changes the number of replicas with the load, between ``replicas`` and ``max_replicas``.
    A replica receives and batches up to ``max_ongoing_requests`` requests; ``max_queued_requests`` wait in the proxy.
    """

    where: ClassVar[str] = "serve.ray_serve"

    host: str = "127.0.0.1"
    port: int = 8888
    replicas: int = 1
    max_replicas: int | None = None
    threads: int | None = None
    max_ongoing_requests: int = 64
    max_queued_requests: int = 1024
    drain_s: float = 10.0

    def check(self, faults: ErrorCollector) -> None:
        """Check the values of all options; see ``ServingOptions.check``."""
        super().check(faults)
        self.check_range(faults, "port", 0, 65535)
        self.check_range(faults, "drain_s", 0)
        with faults.collect():
            if self.access_log == STDOUT:
                raise OptionError(f"{self.where}.access_log=-: the replicas' output is not shown; give a file")
        self.check_range(faults, "max_replicas", self.replicas)
        for name in ("replicas", "threads", "max_ongoing_requests", "max_queued_requests"):
            self.check_range(faults, name, 1)
