"""Child side of a server process: reads its request, and reports success or failure to its parent."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from fastserve_core.errors import FastServeError
from fastserve_core.processes import die_with_parent, set_library_environment, skip_compile_cache

ServeFunction = Callable[[Mapping[str, Any], Callable[[], None]], None]


def run_child(serve: ServeFunction) -> NoReturn:
    """Serve the request that the parent writes to stdin, until a signal ends the process.

    Args:
        serve: Called as ``serve(request, ready)``; it must call ``ready()`` once requests are answered. A
            ``FastServeError`` before that is reported to the parent.
    """
    request = json.loads(sys.stdin.readline())
    die_with_parent(request["parent"])
    set_library_environment()
    skip_compile_cache()
    pipe: int = request["report"]
    os.set_inheritable(pipe, False)  # our own children must not hold it open: its end reports ours to the parent
    try:
        serve(request, lambda: send_report(pipe, {}))
    except FastServeError as error:
        send_report(pipe, error_report(error))
        sys.exit(error.exit_code)
    sys.exit(0)


def error_report(error: FastServeError) -> dict[str, Any]:
    """Return the report of an error, from which the parent raises it again."""
    return {"error": str(error), "exit_code": error.exit_code}


def send_report(pipe: int, message: Mapping[str, Any]) -> None:
    """Write a report to the parent's pipe, as a line of JSON."""
    os.write(pipe, json.dumps(message).encode() + b"\n")
