"""torch's elastic agent: starts the ranks and restarts them if one dies."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import torch
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import dynamic_rendezvous, rendezvous_handler_registry
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fastserve_core.artifacts import read_json
from fastserve_core.data import load_dataset
from fastserve_core.errors import StageError, StoreError, TransientError, UserError, transient_kind
from fastserve_core.processes import TERMINAL_SIGNALS, event_writer, ignored_signals
from fastserve_core.tasks import load_task
from fastserve_torch_ddp.data.tokens import tokenize
from fastserve_torch_ddp.estimate import choose_rank_count, count_parameters
from fastserve_torch_ddp.job import TrainingJob
from fastserve_torch_ddp.rendezvous.config import RendezvousConfig
from fastserve_torch_ddp.rendezvous.endpoint import find_endpoint
from fastserve_torch_ddp.rendezvous.handler import BACKEND, TcpRendezvousHandler
from fastserve_torch_ddp.worker import ERROR_FILE, run_rank, time_rank

START_METHOD = "forkserver"
"""Ranks are forked from a process that has imported torch and transformers, which takes seconds."""
ERROR_HINTS = dict.fromkeys(
    (-signal.SIGKILL, -signal.SIGABRT),
    ": unless someone killed it, the machine ran out of memory; try a smaller batch_size or batch_tokens, more "
    "gradient_accumulation_steps, or activation_checkpointing=true",
)
MAX_LOG_CHARS = 2000
"""Characters of a failed rank's output that are shown."""


def train(**request: Any) -> dict[str, Any]:
    """Train with ``nproc`` ranks on each of ``nnodes`` machines.

    Args:
        **request: The fields of ``TrainingJob`` except ``tokens`` and ``threads``, and ``cores``, the number of cores.

    Returns:
        Scores, steps and costs of the training.

    Raises:
        UserError: The input is invalid, or the nodes have different settings.
        StageError: The nodes did not meet, or a rank failed.
        TransientError: Ranks were killed more often than ``max_restarts``, or memory or disk space ran out.
    """
    config, job = _prepare(request)
    return _launch(config, job, run_rank)


def time_training(**request: Any) -> dict[str, Any]:
    """Time some steps with the ranks of this machine.

    Args:
        **request: As in ``train``.

    Returns:
        The fields of ``calibration.StepCosts``.

    Raises:
        UserError: The input is invalid.
        StageError: A rank failed.
    """
    config, job = _prepare(request)
    begin = time.monotonic()
    costs = _launch(config, job, time_rank)
    start = time.monotonic() - begin - costs.pop("seconds")
    return costs | {"start_seconds": start + costs.pop("preparation_seconds")}


def _prepare(request: dict[str, Any]) -> tuple[LaunchConfig, TrainingJob]:
    """Tokenize the training split, and return the launch configuration and the job of each rank."""
    configure_torch()
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
    config = configure_multi_node(job) if options["nnodes"] > 1 else configure_single_node()
    config.nproc_per_node = nproc
    config.start_method = START_METHOD
    config.max_restarts = options["max_restarts"]
    config.logs_specs = _log_specs(job)
    # otherwise the agent ends the training at a signal that the command ignores, as with nohup
    handled = {signal.SIGTERM, *TERMINAL_SIGNALS} - ignored_signals()
    config.signals_to_handle = ",".join(sorted(number.name for number in handled))
    return config, job


def configure_torch() -> None:
    """Keep torch's agent quiet, off DNS, and from what takes long and is not needed."""
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    # otherwise restarted ranks share the agent's store with the dead ones, and may read their old addresses
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    socket.getfqdn = _host_name
    dynamic_rendezvous.get_method_name = _method_name


def _host_name(name: str = "") -> str:
    """Replace ``socket.getfqdn``, with which the agent's log names this machine: it asks DNS."""
    return name or socket.gethostname()


def _method_name(depth: int = 2) -> str:
    """Replace torch's name of the caller in the events of a rendezvous, which nothing records here.

    torch looks up the source of every frame of the stack for it, in all modules, over a second for each start.
    """
    return f"caller {depth}"


def _launch(
    config: LaunchConfig, job: TrainingJob, rank: Callable[[TrainingJob], dict[str, Any] | None]
) -> dict[str, Any]:
    """Run the ranks of this machine and return the result of the first; raise the error that one reports."""
    try:
        results: Mapping[int, dict[str, Any]] = elastic_launch(config, rank)(job)
    except ChildFailedError as error:
        path = Path(job.folder, ERROR_FILE)
        raise (_reported_failure(read_json(path)) if path.is_file() else _failure(error)) from error
    except JSONDecodeError as error:  # the report that a rank writes for torch's agent is empty
        raise StoreError(f"a rank failed, and could not report why to {job.folder}: is the disk full?") from error
    except DistError as error:
        raise TransientError(f"the nodes lost their connection while the ranks started: {error}") from error
    result = results[min(results)]  # a node receives the results of its own ranks only
    if "failed" in result:
        raise _reported_failure(result)
    if "error" in result:
        raise UserError(result["error"])
    return result


def _local_world_size(request: Mapping[str, Any]) -> int:
    parameters, _ = count_parameters(Path(request["model"]))
    return choose_rank_count(request["options"]["batch_size"], request["cores"], parameters)


def configure_single_node() -> LaunchConfig:
    """Return the launch configuration of one machine, with a rendezvous in a file.

    A rendezvous on loopback would ask DNS for the name of the address.
    """
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=1,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=str(Path(tempfile.gettempdir(), "rendezvous")),
        rdzv_configs={"store_type": "file"},
        local_addr="127.0.0.1",
    )


def configure_multi_node(job: TrainingJob) -> LaunchConfig:
    """Return the launch configuration of one of several machines, with ``TcpRendezvousHandler``.

    Raises:
        UserError: ``rdzv_endpoint`` is malformed, unknown or unreachable.
    """
    options, endpoint = job.options, find_endpoint(job.options["rdzv_endpoint"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = RendezvousConfig(endpoint, options["rdzv_id"], options["nnodes"], device, options["rdzv_timeout_s"])
    handler = TcpRendezvousHandler(config, event_writer(job.events))
    rendezvous_handler_registry.register(BACKEND, lambda _: handler)
    return LaunchConfig(
        min_nodes=config.nodes,
        max_nodes=config.nodes,
        nproc_per_node=1,
        run_id=handler.get_run_id(),
        rdzv_backend=BACKEND,
        rdzv_endpoint=endpoint.text,
        local_addr=endpoint.local,
    )


def _log_specs(job: TrainingJob) -> DefaultLogsSpecs:
    folder = Path(job.folder, "logs")
    folder.mkdir(parents=True, exist_ok=True)
    return DefaultLogsSpecs(log_dir=str(folder), redirects=Std.ALL)


def _reported_failure(failure: Mapping[str, Any]) -> StageError:
    """Return the error that a rank wrote to ``ERROR_FILE``."""
    return (TransientError if failure["is_transient"] else StageError)(failure["failed"])


def _failure(error: ChildFailedError) -> StageError:
    """Return the error of the first rank that failed: its exception, or after a kill the end of its output."""
    rank, failure = error.get_first_failure()
    message: Any = failure.message
    if message and failure.exitcode > 0:
        text = message["message"] if isinstance(message, dict) else message
        return (transient_kind(text) or StageError)(f"rank {rank} failed: {text}")
    path = Path(str(failure.error_file)).with_name("stderr.log")
    output = path.read_text(errors="replace")[-MAX_LOG_CHARS:].strip() if path.is_file() else ""
    hint = ERROR_HINTS.get(failure.exitcode, "")
    kind = TransientError if failure.exitcode < 0 else transient_kind(output) or StageError
    return kind(f"rank {rank} ended with exit code {failure.exitcode}{hint}\n{output}".rstrip())
