"""Our server under a load of texts to write, over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from fastserve_server.options import ServerOptions
from fastserve_server.server import ServerProcess, start
from generation.setting import TOKENS

NAME = "model"


@dataclass(frozen=True)
class Job:
    """A text that is asked for ``at`` seconds after the beginning."""

    prompt: Sequence[int]
    tokens: int
    at: float = 0.0


@contextmanager
def serving(artifact: Path, threads: int, **options: Any) -> Iterator[ServerProcess]:
    told = ServerOptions(port=0, name=NAME, request_timeout_s=600.0, max_new_tokens=1024, **options)
    with start(artifact, told, threads) as server:
        yield server


def seconds_of(url: str, jobs: Sequence[Job]) -> tuple[list[float], float]:
    """How long each text took from when it was asked for, and all of them together."""
    return asyncio.run(_play(url, jobs))


async def _play(url: str, jobs: Sequence[Job]) -> tuple[list[float], float]:
    limits = httpx.Limits(max_connections=len(jobs))
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        begin = time.perf_counter()
        took = await asyncio.gather(*(_one(client, job) for job in jobs))
        return list(took), time.perf_counter() - begin


async def _one(client: httpx.AsyncClient, job: Job) -> float:
    await asyncio.sleep(job.at)
    begin = time.perf_counter()
    asked = {"model": NAME, "prompt": job.prompt, "max_tokens": job.tokens, "temperature": 0, "ignore_eos": True}
    response = await client.post("/v1/completions", json=asked)
    response.raise_for_status()
    assert response.json()["usage"]["completion_tokens"] == job.tokens
    return time.perf_counter() - begin


def rate(url: str, prompts: Sequence[Sequence[int]]) -> float:
    """New tokens a second, all prompts at once."""
    _, seconds = seconds_of(url, [Job(one, TOKENS) for one in prompts])
    return len(prompts) * TOKENS / seconds
