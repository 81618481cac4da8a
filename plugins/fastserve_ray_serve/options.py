"""What the Ray Serve plugin can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastserve_core.errors import ErrorCollector, InvalidOption
from fastserve_server.options import STDOUT, ServingOptions


@dataclass
class RayServeOptions(ServingOptions):
    """Beside the application's: ``threads`` of each replica, null for an equal share of the cores.

    With ``max_replicas`` there are as many as the load asks for, from ``replicas`` up to that. A replica is given
    ``max_ongoing_requests`` at a time, and batches them; ``max_queued_requests`` wait in the proxy. ``drain_s`` is what
    open requests get at the end. ``port`` 0 takes any free one.
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
        super().check(faults)
        self.at_least(faults, "port", 0, 65535)
        self.at_least(faults, "drain_s", 0)
        with faults.collect():
            if self.access_log == STDOUT:
                raise InvalidOption(f"{self.where}.access_log=-: the replicas' output is not shown; give a file")
        self.at_least(faults, "max_replicas", self.replicas)
        for name in ("replicas", "threads", "max_ongoing_requests", "max_queued_requests"):
            self.at_least(faults, name, 1)
