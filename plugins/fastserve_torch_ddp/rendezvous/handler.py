"""How the nodes come together: waits for them, meets again after a loss, and says who is missing."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote

from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, create_handler

from fastserve_core.errors import StageFailed, UserError
from fastserve_core.events import Event, Progress, WarningRaised
from fastserve_torch_ddp.rendezvous.endpoint import Endpoint, reachable

BACKEND = "fastserve"
"""The name under which torch's launcher finds a ``TcpRendezvousHandler``."""
RETRY_SECONDS = 1.0
ANSWER_SECONDS = 10.0
"""A store answers at once; what listens and is silent for so long is something else."""
STORE_SECONDS = 60.0
"""After which a question to a host that has vanished without a word counts as lost."""
LEAVE_SECONDS = 10.0
"""How long the host stays at the end, so that the others still read that the group has been closed."""


@dataclass(frozen=True)
class RendezvousConfig:
    """What a node brings to the meeting; ``device`` is ``cpu`` or ``cuda``."""

    endpoint: Endpoint
    name: str
    nodes: int
    device: str
    timeout_s: float

    def __str__(self) -> str:
        return f"{self.endpoint.text} under the id '{self.name}'"


class TcpRendezvousHandler(RendezvousHandler):
    """Torch's rendezvous over one TCP store, which the node whose address the endpoint is keeps.

    Torch's own ends as soon as that node is lost. This one waits for it, as for every other, at most the
    timeout. The number of nodes is that of the first who came; who wants another is found by
    ``nodes.check_same``, in which all can say so.
    """

    def __init__(self, terms: RendezvousConfig, tell: Callable[[Event], None]) -> None:
        self._terms, self._tell = terms, tell
        self._store: Store | None = None
        self._inner: DynamicRendezvousHandler | None = None
        self._hosting = self._together = False
        self._obstacle = ""

    # -- what the agent asks -------------------------------------------------------------------------

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until all are here; raises ``StageFailed`` when the timeout has passed without."""
        again, self._together = self._together, False
        deadline = time.monotonic() + self._terms.timeout_s
        self._publish(again)
        while True:
            try:
                return self._join(deadline)
            except RendezvousTimeoutError:
                raise StageFailed(self._missing(again)) from None
            except RendezvousClosedError:
                if again:
                    raise StageFailed(f"another node of {self._terms} has given up; its own message says why") from None
            except (RendezvousConnectionError, DistError):
                self._store = self._store if self._hosting else None
            self._inner = None
            if time.monotonic() >= deadline:
                raise StageFailed(self._missing(again))
            time.sleep(RETRY_SECONDS)

    def num_nodes_waiting(self) -> int:
        """How many want to join; a lost host counts as one, since the group has to meet again."""
        try:
            return self._inner.num_nodes_waiting() if self._inner else 0
        except RendezvousConnectionError:
            return 1

    def shutdown(self) -> bool:
        """Close the group; the host stays until the others have seen it."""
        closed = self._inner is not None and self._inner.shutdown()
        if self._store is not None and self._together:
            self._leave(self._store_prefix(self._store))
        return closed

    def is_closed(self) -> bool:
        return self._inner is not None and self._inner.is_closed()

    def set_closed(self) -> None:
        if self._inner is not None:
            self._inner.set_closed()

    def get_backend(self) -> str:
        return BACKEND

    def get_run_id(self) -> str:
        return quote(self._terms.name, safe="")

    # -- coming together -----------------------------------------------------------------------------

    def _join(self, deadline: float) -> RendezvousInfo:
        if self._store is None:
            self._store = self._open(deadline)
            self._register(self._store)
        if self._inner is None:
            self._inner = self._handler(self._store)
        info = self._inner.next_rendezvous()
        self._together = True
        self._tell(Progress(f"nodes at {self._terms.endpoint.text}", info.world_size, info.world_size))
        return info

    def _open(self, deadline: float) -> Store:
        """The store at the endpoint: kept by us when the address is ours and nobody does yet."""
        endpoint = self._terms.endpoint
        while True:
            store = (self._host() if endpoint.here else None) or self._connect()
            if store is not None:
                return store
            if time.monotonic() >= deadline:
                raise RendezvousTimeoutError
            time.sleep(RETRY_SECONDS)

    def _host(self) -> Store | None:
        try:
            store = self._client(is_master=True)
        except DistError as error:
            self._obstacle = f" This machine could not listen there: {str(error).splitlines()[0]}"
            return None
        self._hosting = True
        return store

    def _connect(self) -> Store | None:
        """The store that another keeps; in a thread, for torch waits without end for a listener that is silent."""
        endpoint, made = self._terms.endpoint, queue.SimpleQueue[Store | None]()
        if not reachable(endpoint.address, endpoint.port, ANSWER_SECONDS):
            return None

        def connect() -> None:
            try:
                made.put(self._client(is_master=False))
            except DistError:
                made.put(None)

        threading.Thread(target=connect, daemon=True).start()
        try:
            return made.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise UserError(
                f"another program listens at {endpoint.text}, not a node of this training: choose another port"
            ) from None

    def _client(self, is_master: bool) -> Store:
        endpoint, timeout = self._terms.endpoint, timedelta(seconds=STORE_SECONDS)
        return TCPStore(endpoint.address, endpoint.port, is_master=is_master, wait_for_workers=False, timeout=timeout)

    def _handler(self, store: Store) -> DynamicRendezvousHandler:
        nodes = int(self._agreed_settings(store, "nodes", str(self._terms.nodes)))
        params = RendezvousParameters(
            backend="c10d",
            endpoint=self._terms.endpoint.text,
            run_id=self.get_run_id(),
            min_nodes=nodes,
            max_nodes=nodes,
            local_addr=self._terms.endpoint.local,
            join_timeout=max(1, round(self._terms.timeout_s)),
        )
        return create_handler(store, C10dRendezvousBackend(store, self.get_run_id()), params)

    def _leave(self, board: Store) -> None:
        try:
            left, end = board.add("left", 1), time.monotonic() + LEAVE_SECONDS
            while self._hosting and left < self._terms.nodes and time.monotonic() < end:
                time.sleep(0.1)
                left = board.add("left", 0)
        except DistError:
            return  # the host has left first

    # -- who is there --------------------------------------------------------------------------------

    def _store_prefix(self, store: Store) -> Store:
        return PrefixStore("fastserve", store)

    def _agreed_settings(self, store: Store, what: str, ours: str) -> str:
        """What the first node of this id said."""
        return self._store_prefix(store).compare_set(f"{what}/{self._terms.name}", "", ours).decode()

    def _register(self, store: Store) -> None:
        """Leave our name; raises ``UserError`` when the ranks could not talk to each other."""
        device = self._agreed_settings(store, "device", self._terms.device)
        if device != self._terms.device:
            raise UserError(
                f"this node trains on {self._terms.device} and another node of {self._terms} on {device}: "
                "all need GPUs, or none (CUDA_VISIBLE_DEVICES= hides them)"
            )
        board, terms = self._store_prefix(store), self._terms
        board.set(f"node/{board.add('came', 1)}", json.dumps([terms.endpoint.local, terms.name, terms.nodes]))

    def _joined_nodes(self) -> list[str]:
        """Everyone who ever signed in, once."""
        if self._store is None:
            return []
        try:
            board = self._store_prefix(self._store)
            entries = [json.loads(board.get(f"node/{number + 1}")) for number in range(board.add("came", 0))]
        except DistError:
            return []
        return [f"{address} (rdzv_id={name}, nnodes={nodes})" for address, name, nodes in entries]

    def _publish(self, again: bool) -> None:
        if again:
            self._tell(
                WarningRaised(
                    f"a node was lost or ranks have failed; waiting up to {self._terms.timeout_s:g} s for all "
                    f"{self._terms.nodes} nodes at {self._terms}: run the same command again on the one that is gone"
                )
            )
        else:
            self._tell(Progress(f"nodes at {self._terms.endpoint.text}", 0, self._terms.nodes))

    def _missing(self, again: bool) -> str:
        came = self._joined_nodes()
        seen = "Nobody listens there." if self._store is None else f"Came: {', '.join(dict.fromkeys(came))}."
        what = "did not come together again" if again else "did not come together"
        return (
            f"the {self._terms.nodes} nodes {what} at {self._terms} within {self._terms.timeout_s:g} s. "
            f"{seen}{self._obstacle} Run the same command on every node, and check that each of them reaches "
            f"{self._terms.endpoint.text} through the firewalls, with the same rdzv_id and nnodes, and that their "
            "clocks agree"
        )
