"""multiprocessing's fork server, forked from this process, so that ranks inherit its imports."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

from fastserve_core.processes import PRELOAD_MODULES, can_fork

PRELOADED_MODULES = (*PRELOAD_MODULES, "fastserve_torch_ddp.agent")
"""The modules of a launcher and its ranks that take seconds to import."""


def start_fork_server() -> None:
    """Fork multiprocessing's fork server from this process; call it before any other thread starts.

    multiprocessing itself starts a new interpreter, which takes seconds to import torch and transformers. That is the
    fallback if a fork is not safe, and from Python 3.14 on, whose server receives an authentication key at its start.
    """
    if not can_fork() or sys.version_info >= (3, 14):
        forkserver.set_forkserver_preload(list(PRELOADED_MODULES))
        forkserver.ensure_running()
        return
    resource_tracker.ensure_running()
    alive_reader, alive_writer = os.pipe()  # the server ends when every copy of the writer is closed
    with socket.socket(socket.AF_UNIX) as listener:
        # this launcher's own folder; multiprocessing's address is longer, and the system allows 107 characters
        listener.bind(address := str(Path(tempfile.gettempdir(), "ranks")))
        listener.listen()
        if (pid := os.fork()) == 0:
            os.close(alive_writer)
            _serve(listener.detach(), alive_reader)
    os.close(alive_reader)
    server: Any = forkserver._forkserver
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, alive_writer, pid


def _serve(listener: int, alive_reader: int) -> None:
    """Run the server and exit, so that none of the parent's code runs in the child."""
    try:
        forkserver.main(listener, alive_reader, [])
    finally:
        os._exit(0)
