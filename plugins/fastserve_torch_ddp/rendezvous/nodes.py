"""The consistency check: every rank shares the settings of its node, and differences are reported."""

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
"""Options that may differ between nodes, because they do not change the result."""
PRECISION = "the precision of this machine"
VERSIONS = ("torch", "transformers", "fastserve-core")
MAX_VALUE_CHARS = 80
"""Characters of a value that are shown."""


def collect_settings(job: TrainingJob, precision: str) -> dict[str, Any]:
    """Return the settings that all nodes must share, by the names that users know.

    Args:
        job: The training job of this node.
        precision: The number formats chosen on this machine.
    """
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
    """Compare the settings of all ranks; every rank must call it after the process group is initialized.

    Args:
        settings: The settings of this node.

    Raises:
        UserError: On every rank, if the nodes differ; the message lists each setting with the values of all nodes.
    """
    values = {name: json.dumps(value, sort_keys=True, default=str) for name, value in settings.items()}
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, (int(os.environ.get("GROUP_RANK", "0")), socket.gethostname(), values))
    nodes = {number: (host, node_values) for number, host, node_values in ranks}
    differences = find_differences(nodes)
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise UserError(f"the {len(nodes)} nodes have different settings:\n{lines}\n{_advice(differences)}")


def find_differences(nodes: Mapping[int, tuple[str, Mapping[str, str]]]) -> list[str]:
    """Describe each setting that is not the same on all nodes, in one line.

    Args:
        nodes: The host name and the settings of each node, by its number.
    """
    names = dict.fromkeys(name for _, settings in nodes.values() for name in settings)
    lines = []
    for name in names:
        values = {number: settings.get(name, "not set") for number, (_, settings) in sorted(nodes.items())}
        if len(set(values.values())) > 1:
            items = (
                f"{value[:MAX_VALUE_CHARS]} on node {number} ({nodes[number][0]})" for number, value in values.items()
            )
            lines.append(f"{name}: {', '.join(items)}")
    return lines


def _advice(differences: list[str]) -> str:
    if all(line.startswith(PRECISION) for line in differences):
        return f"set {OPTION_PATH}.precision=fp32 (or bf16) on every node: auto depends on the machine"
    return "run the same command, with the same data, model and versions, on every node"


def _model_hash(folder: Path) -> str:
    """Return the digest of an artifact, or of a checkpoint's files."""
    return load_artifact(folder).digest if is_artifact(folder) else json_digest(hash_files(folder))
