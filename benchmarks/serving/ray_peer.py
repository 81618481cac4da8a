"""Ray Serve with ``@serve.batch`` behind its own proxy: ``MODEL THREADS PORT CLASSIFIER``."""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
import threading
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.requests import Request

from serving.classifiers import classifier

BATCH, WAIT_S, ONGOING = 32, 0.005, 64
"""Of the last Ray's default is 5, with which no batch would be full."""


@serve.deployment(max_ongoing_requests=ONGOING)
class Reviews:
    def __init__(self, kind: str, model: str, threads: int) -> None:
        self.classify = classifier(kind, model, threads)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_S)
    async def batch(self, texts: list[str]) -> list[dict[str, Any]]:
        return self.classify(texts)

    async def __call__(self, request: Request) -> dict[str, Any]:
        found: dict[str, Any] = await self.batch((await request.json())["text"])
        return found


def main(model: str, threads: int, port: int, kind: str) -> None:
    ended = signalled()
    with tempfile.TemporaryDirectory(prefix="fastserve-ray-", ignore_cleanup_errors=True) as folder:
        ray.init(address="local", num_cpus=threads, include_dashboard=False, log_to_driver=False,
                 logging_level=logging.ERROR, object_store_memory=100_000_000, _temp_dir=folder)  # fmt: skip
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
        serve.run(Reviews.options(ray_actor_options={"num_cpus": threads}).bind(kind, model, threads))
        ended.wait()
        serve.shutdown()
        ray.shutdown()


def signalled() -> threading.Event:
    """Set by a signal to end."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    return ended


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
