"""Servers under the same load, one after another, round after round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from training.tables import table

from fastserve_core.errors import FastServeError
from serving.load import Seen, play, write_bodies
from serving.servers import Server
from serving.setting import CONNECTIONS, Bench

Loads = dict[int, Seen]
"""By the number of connections."""


def in_rounds(
    bench: Bench,
    servers: Sequence[Server],
    texts: Sequence[str],
    connections: Sequence[int],
    before: Callable[[], None] = lambda: None,
) -> dict[str, list[Loads]]:
    """What each saw in each round, which ``before`` begins; one that fails is named, and left out from then on."""
    found: dict[str, list[Loads]] = {one.name: [] for one in servers}
    failed: set[str] = set()
    for number in range(bench.rounds):
        before()
        turned = number % len(servers)
        for server in [*servers[turned:], *servers[:turned]]:
            if server.name in failed:
                continue
            try:
                found[server.name].append(_one(bench, server, texts, connections))
            except FastServeError as error:
                print(f"{server.name} failed: {error}", flush=True)
                failed.add(server.name)
    return {name: rounds for name, rounds in found.items() if name not in failed}


def _one(bench: Bench, server: Server, texts: Sequence[str], connections: Sequence[int]) -> Loads:
    path = bench.scratch / f"{'inputs' if server.ours else 'text'}.jsonl"
    bodies: Path = write_bodies(path, [server.body(text) for text in texts])
    with server.run() as url:
        return {count: play(url, bodies, count, bench.seconds) for count in connections}


def ratio(found: Mapping[str, Sequence[Loads]], ours: str, other: str, connections: int) -> float | None:
    """How many times as many requests a second ours answers: the median over rounds; ``None`` where one is missing."""
    if not found.get(ours) or not found.get(other):
        return None
    pairs = zip(found[ours], found[other], strict=True)
    return round(statistics.median(one[connections].per_s / two[connections].per_s for one, two in pairs), 3)


def tail(found: Mapping[str, Sequence[Loads]], name: str) -> float | None:
    """The median over rounds of p99 / p50, with many connections."""
    if not found.get(name):
        return None
    return round(statistics.median(one[CONNECTIONS].p99_ms / one[CONNECTIONS].p50_ms for one in found[name]), 2)


def plain(found: Mapping[str, Sequence[Loads]]) -> dict[str, list[dict[int, dict[str, float]]]]:
    """All that was seen, for the last line."""
    return {
        name: [{count: asdict(seen) for count, seen in one.items()} for one in rounds] for name, rounds in found.items()
    }


def middle(rounds: Sequence[Loads], connections: int, value: Callable[[Seen], float]) -> float:
    """The median of a value over rounds."""
    return statistics.median(value(one[connections]) for one in rounds)


def loads_table(found: Mapping[str, Sequence[Loads]], connections: Sequence[int]) -> str:
    head = [""] + [
        f"{what}, {count} at once" if count > 1 else f"{what}, one at a time"
        for count in connections
        for what in ("requests/s", "p50 ms", "p99 ms")
    ]
    rows = [
        [name, *(text for count in connections for text in _cells(rounds, count))] for name, rounds in found.items()
    ]
    return table(head, rows)


def _cells(rounds: Sequence[Loads], connections: int) -> list[str]:
    return [
        f"{middle(rounds, connections, lambda one: one.per_s):,.0f}",
        f"{middle(rounds, connections, lambda one: one.p50_ms):.1f}",
        f"{middle(rounds, connections, lambda one: one.p99_ms):.1f}",
    ]
