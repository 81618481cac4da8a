"""The launcher's process: becomes what the ranks are forked off, and hands over to the agent.

It is a process of its own because ranks import the main module again, which must not be the user's script.
"""

from __future__ import annotations

from typing import Any

from fastserve_core.processes import child_main
from fastserve_torch_ddp.fork_server import start_server


def launch(**request: Any) -> dict[str, Any]:
    """What ``agent.train`` returns and raises."""
    from fastserve_torch_ddp.agent import train  # what is imported before the fork, the ranks have

    start_server()
    return train(**request)


if __name__ == "__main__":
    child_main(launch)
