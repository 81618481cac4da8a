"""Threads and processes that a verb leaves behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

from fastserve_core.processes.fork_pool import FORK_SERVERS

GRACE_SECONDS = 2.0
"""How long threads and processes that are about to end are waited for."""
PROC = Path("/proc")


class Leftovers:
    """The threads and processes that are new since the object was made.

    Args:
        package: The plugin's package, whose daemon threads count too.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self._threads, self._processes = set(threading.enumerate()), _list_processes()

    def end(self, tolerated: Iterable[threading.Thread]) -> list[str]:
        """Wait shortly for new threads and processes, and kill the processes that remain.

        Args:
            tolerated: Threads that others have started in the meantime.

        Returns:
            A description of each thread and process that remained.
        """
        deadline = time.monotonic() + GRACE_SECONDS
        others = {*self._threads, *tolerated}
        new_threads = [thread for thread in threading.enumerate() if thread not in others and self._counts(thread)]
        for thread in new_threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        while (processes := self._new_processes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        found = [f"the thread '{thread.name}'" for thread in new_threads if thread.is_alive()]
        for number, name in processes.items():
            _kill(number)
            found.append(f"the process {number} ('{name}')")
        return found

    def _counts(self, thread: threading.Thread) -> bool:
        """Return whether a thread is the plugin's: libraries keep daemon threads, such as those of progress bars."""
        target: Any = getattr(thread, "_target", None) or type(thread)
        module = (getattr(target, "__module__", None) or "builtins").partition(".")[0]
        return not thread.daemon or module == self._package or module in sys.stdlib_module_names

    def _new_processes(self) -> dict[int, str]:
        servers: list[Any] = [server for _, server in FORK_SERVERS.running.values() if server is not None]
        helpers: list[Any] = [
            getattr(resource_tracker._resource_tracker, "_pid", None),
            getattr(forkserver._forkserver, "_forkserver_pid", None),
        ]
        found = _list_processes([server.pid for server in servers] + helpers)
        return {number: name for number, name in found.items() if number not in self._processes}


def _list_processes(skipped: Iterable[Any] = ()) -> dict[int, str]:
    """Return the descendants of this process by id, without zombies and without those of skipped processes."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text(errors="replace").rpartition(")")
        except OSError:  # it has ended
            continue
        state, parent = rest.split()[:2]
        if state != "Z":
            parents.setdefault(int(parent), []).append((int(folder.name), name.partition("(")[2]))
    found: dict[int, str] = {}
    waiting, left_out = [os.getpid()], set(skipped)
    while waiting:
        children = [child for child in parents.get(waiting.pop(), ()) if child[0] not in left_out]
        found |= dict(children)
        waiting += [number for number, _ in children]
    return found


def _kill(number: int) -> None:
    try:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # it has just ended, or is not our own child
