"""Whether the nodes were given the same: every rank says what its node trains with, and differences are named."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch.distributed as dist

from fastserve_core.artifacts import hash_files, is_artifact, json_digest, load_artifact
from fastserve_core.data import load_dataset
from fastserve_core.errors import UserError
from fastserve_torch_ddp.job import TrainingJob

OPTION_PATH = "train.torch_ddp"
PER_NODE_OPTIONS = ("nproc", "rdzv_endpoint", "rdzv_id", "rdzv_timeout_s", "max_restarts", "checkpoint_every_s")
"""Options that each node may have its own of: they do not change what the ranks compute together."""
PRECISION = "the precision that this machine computes in"
VERSIONS = ("torch", "transformers", "fastserve-core")
SHOWN = 80
"""Characters of a value that are shown."""


def settings(job: TrainingJob, precision: str) -> dict[str, Any]:
    """What a node trains with, by the names that a user knows; ``precision`` is what ``auto`` came to here."""
    name, task_options, labels = job.task
    data = load_dataset(Path(job.data))
    return {
        **{f"{OPTION_PATH}.{option}": value for option, value in job.options.items() if option not in PER_NODE_OPTIONS},
        "seed": job.seed,
        "steps": job.steps,
        "task": name,
        **{f"task.{option}": value for option, value in task_options.items()},
        "labels": list(labels),
        "data": {"hash": data.fingerprint[:12], **data.counts},
        "model": f"hash {_model_hash(Path(job.model))[:12]}",
        PRECISION: precision,
        **{f"version of {package}": version(package) for package in VERSIONS},
    }


def check_consistency(settings: Mapping[str, Any]) -> None:
    """Compare with every other rank; to be called by all of them once the process group is there.

    Raises ``UserError`` on every rank alike when the nodes differ, naming each setting and who has which value.
    """
    ours = {name: json.dumps(value, sort_keys=True, default=str) for name, value in settings.items()}
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (int(os.environ.get("GROUP_RANK", 0)), socket.gethostname(), ours))
    nodes = {number: (host, theirs) for number, host, theirs in everyone}
    faults = differences(nodes)
    if faults:
        lines = "\n".join(f"  {line}" for line in faults)
        raise UserError(f"the {len(nodes)} nodes were not given the same:\n{lines}\n{_advice(faults)}")


def differences(nodes: Mapping[int, tuple[str, Mapping[str, str]]]) -> list[str]:
    """One line for each setting that is not the same on all nodes (by their number: host name, settings)."""
    names = dict.fromkeys(name for _, theirs in nodes.values() for name in theirs)
    lines = []
    for name in names:
        values = {number: theirs.get(name, "not set") for number, (_, theirs) in sorted(nodes.items())}
        if len(set(values.values())) > 1:
            said = (f"{value[:SHOWN]} on node {number} ({nodes[number][0]})" for number, value in values.items())
            lines.append(f"{name}: {', '.join(said)}")
    return lines


def _advice(faults: list[str]) -> str:
    if all(line.startswith(PRECISION) for line in faults):
        return f"give {OPTION_PATH}.precision=fp32 (or bf16) on every node: auto means what each machine can do"
    return "run the same command, with the same data, model and versions, on every node"


def _model_hash(folder: Path) -> str:
    """The artifact's digest, or one of the same kind for a checkpoint."""
    return load_artifact(folder).digest if is_artifact(folder) else json_digest(hash_files(folder))
