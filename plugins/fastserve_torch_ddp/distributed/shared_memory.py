"""Memory that the ranks of one machine share, so that weights and gradients need not be sent between them."""

from __future__ import annotations

import mmap
import os

import torch
import torch.distributed as dist
from torch import Tensor

SLOTS = 8192
"""Rows of a table that a rank's share of a batch may use before they are sent instead."""


def on_one_machine() -> bool:
    """Whether all ranks are on this machine, and it can share memory by file descriptor (Linux)."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    return world > 1 and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) == world and hasattr(os, "memfd_create")


def shared_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor that every rank sees the same bytes of; to be called on every rank at the same place.

    The memory is the system's, counted and freed like any other: it has no name in a file system, whose size a
    container may limit, and it goes when the last rank does.
    """
    count = 1
    for one in shape:
        count *= one
    size = max(1, count * dtype.itemsize)
    said: list[tuple[int, int] | None] = [None]
    own = -1
    if dist.get_rank() == 0:
        own = os.memfd_create("fastserve")
        os.truncate(own, size)
        said = [(os.getpid(), own)]
    dist.broadcast_object_list(said, src=0)
    assert said[0] is not None
    holder, number = said[0]
    descriptor = own if own >= 0 else os.open(f"/proc/{holder}/fd/{number}", os.O_RDWR)
    mapped = mmap.mmap(descriptor, size)
    dist.barrier()  # rank 0 closes its descriptor only when all have opened it
    os.close(descriptor)
    return torch.frombuffer(mapped, dtype=dtype, count=count).view(shape)


class RowSlots:
    """Room for some rows and their gradients of every rank, seen by all."""

    def __init__(self, width: int) -> None:
        world = dist.get_world_size()
        self.rank = dist.get_rank()
        self.counts = shared_zeros((world,), torch.int64)
        self.rows = shared_zeros((world, SLOTS), torch.int64)
        self.gradients = shared_zeros((world, SLOTS, width), torch.float32)

    def put(self, rows: Tensor, gradients: Tensor) -> None:
        """This rank's; ranks have to meet before they are taken, and again before others are put."""
        self.counts[self.rank] = len(rows)
        if len(rows) <= SLOTS:
            self.rows[self.rank, : len(rows)] = rows
            self.gradients[self.rank, : len(rows)] = gradients

    def take(self) -> tuple[Tensor, Tensor] | None:
        """All ranks' rows and gradients, one after another; ``None`` where a rank had too many."""
        counts = self.counts.tolist()
        if max(counts) > SLOTS:
            return None
        rows = torch.cat([one[:count] for one, count in zip(self.rows, counts, strict=True)])
        return rows, torch.cat([one[:count] for one, count in zip(self.gradients, counts, strict=True)])
