"""The launcher's process: torch's elastic agent starts the ranks and restarts them when one dies.

It is a process of its own because spawned ranks import the main module again, which must not be the user's
script.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fastserve_core.children import answer
from fastserve_core.errors import StageFailed, UserError
from fastserve_torch_ddp.worker import Job, work

LOGGED = 2000
"""Characters of a failed rank's own output that are shown."""


def launch(**request: Any) -> dict[str, Any]:
    """Train with ``nproc`` ranks; returns the validation scores and the number of steps."""
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    # by default restarted ranks share the agent's store with the dead ones, and may read their old addresses
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    options = request["options"]
    nproc = options["nproc"] or max(1, torch.cuda.device_count())
    job = Job(threads=max(1, request.pop("cores") // nproc), **request)
    logs = Path(job.folder, "logs")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=options["max_restarts"],
        monitor_interval=0.1,
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
    )
    logs.mkdir(parents=True, exist_ok=True)
    try:
        results: Mapping[int, dict[str, Any]] = elastic_launch(config, work)(job)
    except ChildFailedError as error:
        raise StageFailed(_why(error)) from error
    if "error" in results[0]:
        raise UserError(results[0]["error"])
    return results[0]


def _why(error: ChildFailedError) -> str:
    """The first rank that failed: its exception, or where it had none (a kill) the end of what it printed."""
    rank, failure = error.get_first_failure()
    said: Any = failure.message
    if said and failure.exitcode > 0:
        text = said["message"] if isinstance(said, dict) else said
        return f"rank {rank} failed: {text}"
    path = Path(str(failure.error_file)).with_name("stderr.log")
    printed = path.read_text(errors="replace")[-LOGGED:].strip() if path.is_file() else ""
    return f"rank {rank} ended with exit code {failure.exitcode}\n{printed}"


if __name__ == "__main__":
    answer(launch)
