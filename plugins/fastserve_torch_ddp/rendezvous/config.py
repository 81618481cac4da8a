"""The settings of a node's rendezvous."""

from __future__ import annotations

from dataclasses import dataclass

from fastserve_torch_ddp.rendezvous.endpoint import Endpoint


@dataclass(frozen=True)
class RendezvousConfig:
    """The settings of a node's rendezvous.

    Attributes:
        endpoint: The endpoint, seen from this node.
        name: The ID of the training, ``rdzv_id``.
        nodes: The number of nodes.
        device: ``cpu`` or ``cuda``.
        timeout_s: How long a node waits for the others, in seconds.
    """

    endpoint: Endpoint
    name: str
    nodes: int
    device: str
    timeout_s: float

    def __str__(self) -> str:
        return f"{self.endpoint.text} under the id '{self.name}'"
