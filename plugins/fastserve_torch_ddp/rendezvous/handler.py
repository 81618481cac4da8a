"""The rendezvous of the nodes: waits for all of them, repeats after a loss, and reports which ones are missing."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
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

from fastserve_core.errors import StageError, UserError
from fastserve_core.events import Event, Progress, WarningRaised
from fastserve_torch_ddp.rendezvous.config import RendezvousConfig
from fastserve_torch_ddp.rendezvous.endpoint import is_reachable

BACKEND = "fastserve"
"""The name under which torch's launcher finds ``TcpRendezvousHandler``."""
RETRY_SECONDS = 1.0
ANSWER_SECONDS = 10.0
"""A store answers at once; a listener that is silent for so long is another program."""
STORE_SECONDS = 60.0
"""The time after which a request to a host that does not answer fails."""
LEAVE_SECONDS = 10.0
"""How long the host stays at the end, so that the other nodes can read that the group is closed."""


class TcpRendezvousHandler(RendezvousHandler):
    """torch's rendezvous over one TCP store, which runs on the node that owns the endpoint's address.

    torch's own handler ends when that node is lost; this one waits for it until the timeout, as for every other node.
    The number of nodes is that of the first node to join; a node with another number joins too, so that
    ``nodes.check_consistency`` can report the difference on all of them.

    Args:
        config: The settings of this node.
        emit: Receives progress and warnings.
    """

    def __init__(self, config: RendezvousConfig, emit: Callable[[Event], None]) -> None:
        self._config, self._emit = config, emit
        self._store: Store | None = None
        self._inner: DynamicRendezvousHandler | None = None
        self._is_host = self._has_joined = False
        self._obstacle = ""

    # -- interface of torch's agent ------------------------------------------------------------------

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until all nodes have joined.

        Raises:
            StageError: A node has not joined within the timeout, or has given up after a restart.
            UserError: Another program listens at the endpoint, or the nodes train on different kinds of devices.
        """
        is_restart, self._has_joined = self._has_joined, False
        deadline = time.monotonic() + self._config.timeout_s
        self._report_waiting(is_restart)
        while True:
            try:
                return self._join(deadline)
            except RendezvousTimeoutError:
                raise StageError(self._timeout_message(is_restart)) from None
            except RendezvousClosedError:
                if is_restart:
                    raise StageError(f"another node of {self._config} has given up; see its own message") from None
            except (RendezvousConnectionError, DistError):
                self._store = self._store if self._is_host else None
            self._inner = None
            if time.monotonic() >= deadline:
                raise StageError(self._timeout_message(is_restart))
            time.sleep(RETRY_SECONDS)

    def num_nodes_waiting(self) -> int:
        """Return how many nodes wait to join; a lost host counts as one, because the group has to meet again."""
        try:
            return self._inner.num_nodes_waiting() if self._inner else 0
        except RendezvousConnectionError:
            return 1

    def shutdown(self) -> bool:
        """Close the group; the host stays until the other nodes have read that."""
        closed = self._inner is not None and self._inner.shutdown()
        if self._store is not None and self._has_joined:
            self._leave(self._prefix(self._store))
        return closed

    def is_closed(self) -> bool:
        """Return whether the group is closed."""
        return self._inner is not None and self._inner.is_closed()

    def set_closed(self) -> None:
        """Close the group."""
        if self._inner is not None:
            self._inner.set_closed()

    def get_backend(self) -> str:
        """Return the name of the backend."""
        return BACKEND

    def get_run_id(self) -> str:
        """Return the ID of the training, quoted for use in a key of the store."""
        return quote(self._config.name, safe="")

    # -- joining -------------------------------------------------------------------------------------

    def _join(self, deadline: float) -> RendezvousInfo:
        if self._store is None:
            self._store = self._open(deadline)
            self._register(self._store)
        if self._inner is None:
            self._inner = self._create_handler(self._store)
        info = self._inner.next_rendezvous()
        self._has_joined = True
        self._emit(Progress(f"nodes at {self._config.endpoint.text}", info.world_size, info.world_size))
        return info

    def _open(self, deadline: float) -> Store:
        """Return the store at the endpoint; this node starts it if the address is its own and no other process has."""
        endpoint = self._config.endpoint
        while True:
            store = (self._host() if endpoint.is_local else None) or self._connect()
            if store is not None:
                return store
            if time.monotonic() >= deadline:
                raise RendezvousTimeoutError
            time.sleep(RETRY_SECONDS)

    def _host(self) -> Store | None:
        try:
            store = self._create_store(is_master=True)
        except DistError as error:
            self._obstacle = f" This machine could not listen there: {str(error).splitlines()[0]}"
            return None
        self._is_host = True
        return store

    def _connect(self) -> Store | None:
        """Connect to the store of another process, in a thread, because torch waits forever for a silent listener."""
        endpoint, stores = self._config.endpoint, queue.SimpleQueue[Store | None]()
        if not is_reachable(endpoint.address, endpoint.port, ANSWER_SECONDS):
            return None

        def connect() -> None:
            try:
                stores.put(self._create_store(is_master=False))
            except DistError:
                stores.put(None)

        threading.Thread(target=connect, daemon=True).start()
        try:
            return stores.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise UserError(
                f"another program listens at {endpoint.text}, not a node of this training: choose another port"
            ) from None

    def _create_store(self, is_master: bool) -> Store:
        endpoint, timeout = self._config.endpoint, timedelta(seconds=STORE_SECONDS)
        return TCPStore(endpoint.address, endpoint.port, is_master=is_master, wait_for_workers=False, timeout=timeout)

    def _create_handler(self, store: Store) -> DynamicRendezvousHandler:
        nodes = int(self._agree(store, "nodes", str(self._config.nodes)))
        params = RendezvousParameters(
            backend="c10d",
            endpoint=self._config.endpoint.text,
            run_id=self.get_run_id(),
            min_nodes=nodes,
            max_nodes=nodes,
            local_addr=self._config.endpoint.local,
            join_timeout=max(1, round(self._config.timeout_s)),
        )
        return create_handler(store, C10dRendezvousBackend(store, self.get_run_id()), params)

    def _leave(self, store: Store) -> None:
        try:
            left, end = store.add("left", 1), time.monotonic() + LEAVE_SECONDS
            while self._is_host and left < self._config.nodes and time.monotonic() < end:
                time.sleep(0.1)
                left = store.add("left", 0)
        except DistError:
            return  # the host has left first

    # -- the nodes so far ----------------------------------------------------------------------------

    def _prefix(self, store: Store) -> Store:
        return PrefixStore("fastserve", store)

    def _agree(self, store: Store, setting: str, value: str) -> str:
        """Return the value of the first node with this ID."""
        return self._prefix(store).compare_set(f"{setting}/{self._config.name}", "", value).decode()

    def _register(self, store: Store) -> None:
        """Add this node to the list, or raise ``UserError`` if its ranks cannot communicate with the others'."""
        device = self._agree(store, "device", self._config.device)
        if device != self._config.device:
            raise UserError(
                f"this node trains on {self._config.device} and another node of {self._config} on {device}: "
                "all need GPUs, or none (CUDA_VISIBLE_DEVICES= hides them)"
            )
        shared, config = self._prefix(store), self._config
        entry = json.dumps([config.endpoint.local, config.name, config.nodes])
        shared.set(f"node/{shared.add('joined', 1)}", entry)

    def _joined_nodes(self) -> list[str]:
        """Describe every node that has registered."""
        if self._store is None:
            return []
        try:
            shared = self._prefix(self._store)
            entries = [json.loads(shared.get(f"node/{number + 1}")) for number in range(shared.add("joined", 0))]
        except DistError:
            return []
        return [f"{address} (rdzv_id={name}, nnodes={nodes})" for address, name, nodes in entries]

    def _report_waiting(self, is_restart: bool) -> None:
        if is_restart:
            self._emit(
                WarningRaised(
                    f"a node was lost or ranks have failed; waiting up to {self._config.timeout_s:g} s for all "
                    f"{self._config.nodes} nodes at {self._config}: run the same command again on the lost node"
                )
            )
        else:
            self._emit(Progress(f"nodes at {self._config.endpoint.text}", 0, self._config.nodes))

    def _timeout_message(self, is_restart: bool) -> str:
        joined = ", ".join(dict.fromkeys(self._joined_nodes()))
        state = "No program listens there." if self._store is None else f"Joined: {joined}."
        fault = "did not meet again" if is_restart else "did not meet"
        return (
            f"the {self._config.nodes} nodes {fault} at {self._config} within {self._config.timeout_s:g} s. "
            f"{state}{self._obstacle} Run the same command on every node, and check that each of them reaches "
            f"{self._config.endpoint.text} through the firewalls, with the same rdzv_id and nnodes, and that their "
            "clocks agree"
        )
