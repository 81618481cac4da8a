"""The launcher's process: starts the server that ranks are forked from, and runs the agent.

It is a separate process because ranks import the main module again, which must not be the user's script.
"""

from __future__ import annotations

from typing import Any

from fastserve_core.processes import child_main
from fastserve_torch_ddp.fork_server import start_fork_server


def launch(calibrates: bool = False, **request: Any) -> dict[str, Any]:
    """Start the fork server, and train (``agent.train``) or time some steps (``agent.time_training``)."""
    from fastserve_torch_ddp.agent import time_training, train  # imported before the fork, so that the ranks have it

    start_fork_server()
    return time_training(**request) if calibrates else train(**request)


if __name__ == "__main__":
    child_main(launch)
