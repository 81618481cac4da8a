"""The child's side of a server process: what it is asked for, and telling its parent how it went."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from fastserve_core.errors import FastServeError
from fastserve_core.processes import die_with_parent, library_environment

ServeFunction = Callable[[Mapping[str, Any], Callable[[], None]], None]


def run_child(serve: ServeFunction) -> NoReturn:
    """Serve what the parent asks for on stdin, ``serve(request, ready)``, until a signal; then exit with 0.

    ``ready`` is to be called once requests are answered. The parent is told of a ``FastServeError`` before that.
    """
    request = json.loads(sys.stdin.readline())
    die_with_parent(request["parent"])
    library_environment()
    pipe: int = request["report"]
    os.set_inheritable(pipe, False)  # it must not stay open in our own children: its end tells the parent of ours
    try:
        serve(request, lambda: report(pipe, {}))
    except FastServeError as error:
        report(pipe, failure(error))
        sys.exit(error.exit_code)
    sys.exit(0)


def failure(error: FastServeError) -> dict[str, Any]:
    """What the parent is told of an error, which it raises again."""
    return {"error": str(error), "exit_code": error.exit_code}


def report(pipe: int, message: Mapping[str, Any]) -> None:
    """Tell the parent, in a line."""
    os.write(pipe, json.dumps(message).encode() + b"\n")
