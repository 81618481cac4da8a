"""Fixtures of the trainer's tests: real ranks over gloo, forked from the test."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import pytest

OnRanks = Callable[..., list[Any]]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _rank(rank: int, world: int, near: bool, port: int, function: Callable[..., Any], answers: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)  # a forked process cannot use its parent's OpenMP threads
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    os.environ["LOCAL_WORLD_SIZE"] = str(world if near else 1)
    try:
        dist.init_process_group("gloo", rank=rank, world_size=world)
        answers.put((rank, function(), None))
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))
    finally:
        dist.destroy_process_group()


@pytest.fixture
def on_ranks() -> OnRanks:
    """Run a function on that many ranks of a gloo group and return what each of them gave, by rank.

    What a function returns crosses a pipe: numbers, lists, numpy arrays. ``near``: they know that they are on one
    machine, and share its memory; else they send everything, as ranks of several machines do.
    """

    def run(world: int, function: Callable[[], Any], near: bool = False) -> list[Any]:
        context = get_context("fork")
        answers, port = context.Queue(), free_port()
        ranks = [context.Process(target=_rank, args=(n, world, near, port, function, answers)) for n in range(world)]
        for process in ranks:
            process.start()
        found = {}
        try:
            for _ in ranks:
                rank, value, fault = answers.get(timeout=60)
                assert fault is None, f"rank {rank}:\n{fault}"
                found[rank] = value
            for process in ranks:
                process.join(timeout=30)
        finally:
            for process in ranks:
                process.kill()  # Python waits at its end for those that are left
        return [found[rank] for rank in range(world)]

    return run
