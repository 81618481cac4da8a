"""What a request that is alone takes beside the engine's pass, as the server itself counts both."""

from __future__ import annotations

from urllib.parse import urljoin

import httpx
from prometheus_client.parser import text_string_to_metric_families

from serving.load import play, write_bodies
from serving.servers import Server
from serving.setting import Bench

REQUESTS, ENGINE = "fastserve_request_seconds", "fastserve_engine_seconds"
PATH = "/predict"


def beside(bench: Bench, server: Server, texts: tuple[str, ...]) -> float:
    """Milliseconds on average, the tokenizer's among them, with one request after the other.

    Both clocks run in the same requests. Where a processor's speed comes and goes, that tells more than the
    difference of two medians, each of other minutes.
    """
    bodies = write_bodies(bench.scratch / "beside.jsonl", [server.body(text) for text in texts])
    with server.run() as url:
        before = counted(url)
        play(url, bodies, 1, bench.seconds)
        after = counted(url)
    requests, taken, engine = (now - then for now, then in zip(after, before, strict=True))
    return 1000 * (taken - engine) / requests


def counted(url: str) -> tuple[float, float, float]:
    """How many requests a server has answered, and the seconds of those and of its engine's passes, so far."""
    metrics = httpx.get(urljoin(url, "/metrics")).raise_for_status().text
    samples = {
        one.name: one.value
        for family in text_string_to_metric_families(metrics)
        for one in family.samples
        if one.labels.get("path", PATH) == PATH
    }
    answered, seconds = (samples.get(f"{REQUESTS}_{what}", 0.0) for what in ("count", "sum"))
    return answered, seconds, samples.get(f"{ENGINE}_sum", 0.0)
