"""What each rank does: join the others, train, and say plainly why it could not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from fastserve_core.errors import StageFailed, UserError
from fastserve_core.processes.child import die_with_parent
from fastserve_torch_ddp.job import Job, own_device
from fastserve_torch_ddp.kernels import numbers
from fastserve_torch_ddp.machines.endpoint import find_endpoint, send_that_way
from fastserve_torch_ddp.machines.nodes import check_same, settings
from fastserve_torch_ddp.trainer import Trainer

FAULT = "fault.txt"
"""A fault that another try would not mend; ranks that are restarted find it and end."""


@record
def work(job: Job) -> dict[str, Any]:
    """A rank's whole life; returns the validation scores and the steps taken, or a fault and whose it is."""
    die_with_parent()
    numbers.settle_process(job.options, job.threads)
    several = job.options["nnodes"] > 1
    if several:
        send_that_way(find_endpoint(job.options["rdzv_endpoint"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        if found := _faults(job):
            return {"failed": found}
        if several:
            check_same(settings(job, str(numbers.choose(job.options, own_device()))))
        trainer = Trainer(job)
        result = trainer.train()
    except UserError as error:
        return {"error": str(error)}
    except StageFailed as error:
        Path(job.folder, FAULT).write_text(str(error), encoding="utf-8")
        raise
    finally:
        dist.destroy_process_group()
    trainer.write_draft()
    return result


def _faults(job: Job) -> str:
    """What a rank of any machine met before the group was restarted."""
    path = Path(job.folder, FAULT)
    own = path.read_text(encoding="utf-8") if path.is_file() else ""
    everyone: list[Any] = [""] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return next((one for one in everyone if one), "")
