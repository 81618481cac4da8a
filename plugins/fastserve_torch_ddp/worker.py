"""The process of one rank: joins the process group, trains, and reports its errors."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from fastserve_core.artifacts import read_json, resolve_home, write_json
from fastserve_core.errors import StageError, TransientError, UserError
from fastserve_core.processes import COMPILE_CACHE_ENV, die_with_parent
from fastserve_torch_ddp.job import TrainingJob, local_device
from fastserve_torch_ddp.ops import precision
from fastserve_torch_ddp.rendezvous.endpoint import bind_interface, find_endpoint, list_interfaces
from fastserve_torch_ddp.rendezvous.nodes import check_consistency, collect_settings
from fastserve_torch_ddp.step_timing import time_steps
from fastserve_torch_ddp.trainer import Trainer

ERROR_FILE = "error.json"
"""An error that a restart would repeat; restarted ranks read it and end."""


@record
def run_rank(job: TrainingJob) -> dict[str, Any]:
    """Train as one rank of the group.

    Args:
        job: The training job.

    Returns:
        Scores, steps and costs of the training; or the key ``error`` with the message of a ``UserError``, or
        ``failed`` with that of a ``StageError`` before the group was restarted, and ``is_transient``.

    Raises:
        StageError: The training failed.
    """
    die_with_parent()
    precision.configure_process(job.options, job.threads)
    if job.options["compile"]:
        os.environ[COMPILE_CACHE_ENV] = str(resolve_home(Path(job.folder)) / "cache" / "torchinductor")
    is_multi_node = job.options["nnodes"] > 1
    _join_group(job, is_multi_node)
    try:
        if failure := _read_earlier_error(job):
            return failure
        if is_multi_node:
            check_consistency(collect_settings(job, str(precision.choose_precision(job.options, local_device()))))
        trainer = Trainer(job)
        result = trainer.train()
    except UserError as error:
        return {"error": str(error)}
    except StageError as error:
        failure = {"failed": str(error), "is_transient": isinstance(error, TransientError)}
        write_json(Path(job.folder, ERROR_FILE), failure)
        raise
    finally:
        dist.destroy_process_group()
    trainer.write_draft()
    return result


def _join_group(job: TrainingJob, is_multi_node: bool) -> None:
    """Join the process group; on one machine the ranks meet in a file, and gloo listens on loopback only.

    torch's TCP store asks DNS for the names of the addresses that it connects to, also of loopback.
    """
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if is_multi_node:
        bind_interface(find_endpoint(job.options["rdzv_endpoint"]))
        dist.init_process_group(backend)
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", list_interfaces().get("127.0.0.1", "lo"))
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    name = f"group-{os.environ['TORCHELASTIC_RUN_ID']}-{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    store = dist.FileStore(str(Path(tempfile.gettempdir(), name)), world_size)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)


@record
def time_rank(job: TrainingJob) -> dict[str, Any]:
    """Time some steps as one rank of the group, on one machine.

    Args:
        job: The training job.

    Returns:
        The result of ``time_steps``, or the key ``error`` with the message of a ``UserError``.
    """
    die_with_parent()
    precision.configure_process(job.options, job.threads)
    _join_group(job, is_multi_node=False)
    try:
        return time_steps(Trainer(job))
    except UserError as error:
        return {"error": str(error)}
    finally:
        dist.destroy_process_group()


def _read_earlier_error(job: TrainingJob) -> dict[str, Any]:
    """Return the error that a rank of any machine wrote before the group was restarted; empty if there is none."""
    path = Path(job.folder, ERROR_FILE)
    failures: list[Any] = [{}] * dist.get_world_size()
    dist.all_gather_object(failures, read_json(path) if path.is_file() else {})
    return next(filter(None, failures), {})
