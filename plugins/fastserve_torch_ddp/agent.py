"""torch's elastic agent: starts the ranks and restarts them when one dies."""

from __future__ import annotations

import logging
import os
import signal
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fastserve_core.data import load_dataset
from fastserve_core.errors import StageFailed, UserError
from fastserve_core.processes import event_writer
from fastserve_core.tasks import load_task
from fastserve_torch_ddp.data.tokens import tokenize
from fastserve_torch_ddp.estimate import parameters_of, ranks_for
from fastserve_torch_ddp.job import TrainingJob
from fastserve_torch_ddp.rendezvous.endpoint import find_endpoint
from fastserve_torch_ddp.rendezvous.handler import BACKEND, RendezvousConfig, TcpRendezvousHandler
from fastserve_torch_ddp.worker import ERROR_FILE, work

START = "forkserver"
"""Ranks are forked off a process that has imported what they need, rather than import it each for themselves."""
ERROR_HINTS = dict.fromkeys(
    (-signal.SIGKILL, -signal.SIGABRT),
    ": where nobody killed it, the machine ran out of memory; try a smaller batch_size or batch_tokens, more "
    "gradient_accumulation_steps, or activation_checkpointing=true",
)
LOGGED = 2000
"""Characters of a failed rank's own output that are shown."""


def train(**request: Any) -> dict[str, Any]:
    """Train with ``nproc`` ranks on each of ``nnodes`` machines; returns the validation scores and the steps.

    Raises ``UserError`` for what the ranks found wrong with the input or with what the nodes were given, and
    ``StageFailed`` when the nodes do not come together or ranks died more often than ``max_restarts``.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    # by default restarted ranks share the agent's store with the dead ones, and may read their old addresses
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    options = request["options"]
    nproc = options["nproc"] or torch.cuda.device_count() or _local_world_size(request)
    tokens = tokenize(
        load_task(*request["task"]),
        Path(request["model"]),
        load_dataset(Path(request["data"])),
        "train",
        event_writer(request["events"]),
    )
    job = TrainingJob(threads=max(1, request.pop("cores") // nproc), tokens=str(tokens), **request)
    Path(job.folder, ERROR_FILE).unlink(missing_ok=True)
    config = run_multi_node(job) if options["nnodes"] > 1 else run_single_node()
    config.nproc_per_node = nproc
    config.start_method = START
    config.max_restarts = options["max_restarts"]
    config.logs_specs = _logs(job)
    try:
        results: Mapping[int, dict[str, Any]] = elastic_launch(config, work)(job)
    except ChildFailedError as error:
        raise StageFailed(_failure_reason(error)) from error
    except DistError as error:
        raise StageFailed(f"the nodes lost each other while the ranks were started: {error}") from error
    ours = results[min(results)]  # each node is told of its own ranks only
    if "failed" in ours:
        raise StageFailed(ours["failed"])
    if "error" in ours:
        raise UserError(ours["error"])
    return ours


def _local_world_size(request: Mapping[str, Any]) -> int:
    parameters, _ = parameters_of(Path(request["model"]))
    return ranks_for(request["options"]["batch_size"], request["cores"], parameters)


def run_single_node() -> LaunchConfig:
    """One machine: a rendezvous of its own, on loopback."""
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=1,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
    )


def run_multi_node(job: TrainingJob) -> LaunchConfig:
    """One of several machines: a rendezvous of our own."""
    options, endpoint = job.options, find_endpoint(job.options["rdzv_endpoint"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    terms = RendezvousConfig(endpoint, options["rdzv_id"], options["nnodes"], device, options["rdzv_timeout_s"])
    meeting = TcpRendezvousHandler(terms, event_writer(job.events))
    rendezvous_handler_registry.register(BACKEND, lambda _: meeting)
    return LaunchConfig(
        min_nodes=terms.nodes,
        max_nodes=terms.nodes,
        nproc_per_node=1,
        run_id=meeting.get_run_id(),
        rdzv_backend=BACKEND,
        rdzv_endpoint=endpoint.text,
        local_addr=endpoint.local,
    )


def _logs(job: TrainingJob) -> DefaultLogsSpecs:
    folder = Path(job.folder, "logs")
    folder.mkdir(parents=True, exist_ok=True)
    return DefaultLogsSpecs(log_dir=str(folder), redirects=Std.ALL)


def _failure_reason(error: ChildFailedError) -> str:
    """The first rank that failed: its exception, or where it had none (a kill) the end of what it printed."""
    rank, failure = error.get_first_failure()
    said: Any = failure.message
    if said and failure.exitcode > 0:
        text = said["message"] if isinstance(said, dict) else said
        return f"rank {rank} failed: {text}"
    path = Path(str(failure.error_file)).with_name("stderr.log")
    printed = path.read_text(errors="replace")[-LOGGED:].strip() if path.is_file() else ""
    hint = ERROR_HINTS.get(failure.exitcode, "")
    return f"rank {rank} ended with exit code {failure.exitcode}{hint}\n{printed}".rstrip()
