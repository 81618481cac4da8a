"""The servers, ours and the peers': started when it is their turn, and ended after it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import httpx
import psutil

from fastserve_core.entry_points import missing_packages
from fastserve_core.errors import StageError
from fastserve_core.processes import thread_environment
from fastserve_ray_serve.options import RayServeOptions
from fastserve_ray_serve.server import LOOPBACK_ONLY, authentication
from fastserve_ray_serve.server import start as start_ray
from fastserve_server.addresses import bind
from fastserve_server.options import ServerOptions
from fastserve_server.server import start as start_embedded

NEEDS = {"fastapi": ("fastapi",), "litserve": ("litserve",), "ray": ("ray",)}
READY_S, END_S = 180.0, 20.0


@dataclass(frozen=True)
class Server:
    """``run`` yields where ``/predict`` is; ``ours`` says how it is asked."""

    name: str
    run: Callable[[], AbstractContextManager[str]]
    ours: bool = True

    def body(self, text: str) -> dict[str, object]:
        return {"inputs": [text]} if self.ours else {"text": text}


def embedded(name: str, artifact: Path, threads: int) -> Server:
    return Server(name, partial(_embedded, artifact, threads))


def on_ray(name: str, artifact: Path, threads: int) -> Server:
    """One replica, with all cores."""
    return Server(name, partial(_on_ray, artifact, threads))


def peers(kind: str, name: str, model: Path, threads: int, *more: str) -> list[Server]:
    """The peer as a list of one; it is empty, and the peer is named, where its packages are missing."""
    if missing := missing_packages(NEEDS[kind]):
        print(f"{name}: missing here, it needs {', '.join(missing)}", flush=True)
        return []
    return [Server(name, partial(run_peer, f"serving.{kind}run_peer", model, threads, more), ours=False)]


@contextmanager
def _embedded(artifact: Path, threads: int) -> Iterator[str]:
    with start_embedded(artifact, ServerOptions(port=0), threads) as server:
        yield f"{server.url}/predict"


@contextmanager
def _on_ray(artifact: Path, threads: int) -> Iterator[str]:
    with start_ray(artifact, RayServeOptions(port=0), threads) as server:
        yield f"{server.url}/predict"


@contextmanager
def run_peer(module: str, model: Path, threads: int, more: tuple[str, ...]) -> Iterator[str]:
    with bind("127.0.0.1", 0, "benchmark") as probe:
        port: int = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/predict"
    environment = os.environ | thread_environment(threads) | LOOPBACK_ONLY | authentication()
    command = [sys.executable, "-m", module, str(model), str(threads), str(port), *more]
    with TemporaryFile() as said:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            _wait(url, process, said)
            yield url
        finally:
            _end(process)


def _wait(url: str, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    """Until it answers; raises ``StageError`` with the end of what it said."""
    until = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx.post(url, json={"text": "a film"}, timeout=READY_S).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    said.seek(0)
    raise StageError(f"{url} never answered:\n{said.read().decode(errors='replace')[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it started: LitServe leaves its workers on a signal."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for one in family:
        if one.is_running():
            one.kill()
    psutil.wait_procs(family, timeout=END_S)
