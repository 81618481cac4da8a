"""What each rank does: join the others, train, and say plainly why it could not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from fastserve_core.errors import StageFailed, UserError
from fastserve_core.processes import die_with_parent
from fastserve_torch_ddp.job import TrainingJob, own_device
from fastserve_torch_ddp.ops import precision
from fastserve_torch_ddp.rendezvous.endpoint import bind_interface, find_endpoint
from fastserve_torch_ddp.rendezvous.nodes import check_consistency, settings
from fastserve_torch_ddp.trainer import Trainer

ERROR_FILE = "fault.txt"
"""A fault that another try would not mend; ranks that are restarted find it and end."""


@record
def work(job: TrainingJob) -> dict[str, Any]:
    """A rank's whole life; returns the validation scores and the steps taken, or a fault and whose it is."""
    die_with_parent()
    precision.configure_process(job.options, job.threads)
    several = job.options["nnodes"] > 1
    if several:
        bind_interface(find_endpoint(job.options["rdzv_endpoint"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        if found := _faults(job):
            return {"failed": found}
        if several:
            check_consistency(settings(job, str(precision.choose_precision(job.options, own_device()))))
        trainer = Trainer(job)
        result = trainer.train()
    except UserError as error:
        return {"error": str(error)}
    except StageFailed as error:
        Path(job.folder, ERROR_FILE).write_text(str(error), encoding="utf-8")
        raise
    finally:
        dist.destroy_process_group()
    trainer.write_draft()
    return result


def _faults(job: TrainingJob) -> str:
    """What a rank of any machine met before the group was restarted."""
    path = Path(job.folder, ERROR_FILE)
    own = path.read_text(encoding="utf-8") if path.is_file() else ""
    everyone: list[Any] = [""] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return next((one for one in everyone if one), "")
