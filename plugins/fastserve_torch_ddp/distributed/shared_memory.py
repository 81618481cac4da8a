"""Memory that the ranks of one machine share, so that weights and gradients need not be sent between them."""

from __future__ import annotations

import mmap
import os
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

MAX_ROWS = 8192
"""Rows of a table that a rank's share of a batch may use before they are sent instead."""


def is_single_machine() -> bool:
    """Return whether several ranks run and all are on this machine, which can share memory by descriptor (Linux)."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    return world > 1 and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == world and hasattr(os, "memfd_create")


def shared_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Allocate a tensor of zeros in memory that every rank maps.

    Every rank must call this function, in the same order as its other collective calls. The memory has no name in a
    file system, whose size a container may limit; the system counts it like any other and frees it with the last rank.

    Args:
        shape: The shape of the tensor.
        dtype: Its element type.

    Returns:
        The tensor, whose bytes are the same on every rank.
    """
    count = prod(shape)
    size = max(1, count * dtype.itemsize)
    handle: list[tuple[int, int] | None] = [None]
    own_descriptor = -1
    if dist.get_rank() == 0:
        own_descriptor = os.memfd_create("fastserve")
        os.truncate(own_descriptor, size)
        handle = [(os.getpid(), own_descriptor)]
    dist.broadcast_object_list(handle, src=0)
    assert handle[0] is not None
    pid, number = handle[0]
    descriptor = own_descriptor if own_descriptor >= 0 else os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR)
    mapping = mmap.mmap(descriptor, size)
    dist.barrier()  # rank 0 closes its descriptor only when all have opened it
    os.close(descriptor)
    return torch.frombuffer(mapping, dtype=dtype, count=count).view(shape)


class RowSlots:
    """Shared buffers for the row numbers and row gradients of every rank.

    Args:
        width: The number of columns of a gradient row.
    """

    def __init__(self, width: int) -> None:
        world = dist.get_world_size()
        self.rank = dist.get_rank()
        self.counts = shared_zeros((world,), torch.int64)
        self.rows = shared_zeros((world, MAX_ROWS), torch.int64)
        self.gradients = shared_zeros((world, MAX_ROWS, width), torch.float32)

    def put(self, rows: Tensor, gradients: Tensor) -> None:
        """Write the rows of this rank.

        The ranks need a barrier between this call and ``take``, and another before the next ``put``.

        Args:
            rows: Row numbers, of shape (n,), int64.
            gradients: Of shape (n, width), fp32.
        """
        self.counts[self.rank] = len(rows)
        if len(rows) <= MAX_ROWS:
            self.rows[self.rank, : len(rows)] = rows
            self.gradients[self.rank, : len(rows)] = gradients

    def take(self) -> tuple[Tensor, Tensor] | None:
        """Concatenate the rows of all ranks.

        Returns:
            Row numbers and gradients in the order of the ranks, or ``None`` if a rank has more than ``MAX_ROWS``.
        """
        counts = self.counts.tolist()
        if max(counts) > MAX_ROWS:
            return None
        rows = torch.cat([slot[:count] for slot, count in zip(self.rows, counts, strict=True)])
        return rows, torch.cat([slot[:count] for slot, count in zip(self.gradients, counts, strict=True)])
