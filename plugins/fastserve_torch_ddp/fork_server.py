"""multiprocessing's server of forks, forked off this process: what is imported here, no rank imports again."""

from __future__ import annotations

import os
import socket
import sys
from multiprocessing import connection, forkserver, resource_tracker
from typing import Any

from fastserve_core.processes import PRELOAD_MODULES, can_fork

IMPORTED = (*PRELOAD_MODULES, "fastserve_torch_ddp.agent")
"""What a launcher and its ranks need and takes seconds to import."""


def start_server() -> None:
    """Have ranks forked off this process as it is now; call it before anything else starts a thread.

    multiprocessing would start an interpreter anew, which takes seconds to import torch and transformers. It is left to
    where a fork is not safe, and from Python 3.14 on, where its server is told a secret at its start.
    """
    if not can_fork() or sys.version_info >= (3, 14):
        forkserver.set_forkserver_preload(list(IMPORTED))
        forkserver.ensure_running()
        return
    resource_tracker.ensure_running()
    alive, ours = os.pipe()  # it ends when all who hold ours have ended
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address := connection.arbitrary_address("AF_UNIX"))  # type: ignore[attr-defined]
        listener.listen()
        if (pid := os.fork()) == 0:
            os.close(ours)
            _serve(listener.detach(), alive)
    os.close(alive)
    server: Any = forkserver._forkserver
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, ours, pid


def _serve(listener: int, alive: int) -> None:
    """The server's life; nothing of its parent's goes on in it."""
    try:
        forkserver.main(listener, alive, [])
    finally:
        os._exit(0)
