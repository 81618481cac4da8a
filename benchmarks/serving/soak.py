"""A server for ten minutes at twice the rate that it can sustain: what it answers, and whether its memory grows."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psutil
from training.tables import table

from serving import load
from serving.servers import embedded
from serving.setting import CONNECTIONS, Bench, models

TIMES, MINUTES, QUICK_S = 2.0, 10, 20
LOOK_S = 5.0
CLIENTS = 3000
"""Requests that may be under way; more than the server's queue holds, so that it has to refuse."""


@dataclass
class Soak:
    """Replies by status, or by what went wrong without one; megabytes of the server, looked at every few seconds."""

    replies: Counter[str] = field(default_factory=Counter)
    megabytes: list[float] = field(default_factory=list)
    sent: int = 0


def soak(bench: Bench) -> dict[str, Any]:
    """The rate is that of a closed loop of 64 connections just before."""
    made = models(bench)
    seconds = QUICK_S if bench.rounds == 1 else 60 * MINUTES
    bodies = load.write_bodies(bench.scratch / "soak.txt", [{"inputs": [text]} for text in made.texts])
    server = embedded("ours", made.original, bench.threads)
    before = set(psutil.Process().children(recursive=True))
    with server.run() as url:
        processes = [one for one in psutil.Process().children(recursive=True) if one not in before]
        rate = load.play(url, bodies, CONNECTIONS, bench.seconds).per_s
        seen = asyncio.run(_press(url, bodies.read_bytes().splitlines(), TIMES * rate, seconds, processes))
        after = load.play(url, bodies, CONNECTIONS, bench.seconds).per_s
    tenth = max(1, len(seen.megabytes) // 10)
    early, late = max(seen.megabytes[tenth : 2 * tenth] or seen.megabytes), max(seen.megabytes[-tenth:])
    share = {status: f"{count:,} ({count / seen.sent:.1%})" for status, count in sorted(seen.replies.items())}
    rows = [["asked for", f"{TIMES * rate:.0f}/s for {seconds} s"], *share.items()]
    rows += [["memory after a tenth", f"{early:.0f} MB"], ["memory at the end", f"{late:.0f} MB"]]
    rows += [["rate before", f"{rate:.0f}/s"], ["rate after", f"{after:.0f}/s"]]
    print(table(["soak", ""], rows))
    every = max(1, round(60 / LOOK_S))
    print("\nmemory by the minute, MB: " + ", ".join(f"{one:.0f}" for one in seen.megabytes[::every]))
    strange = {status: count for status, count in seen.replies.items() if status not in ("200", "429")}
    return {
        "soak_strange_replies": strange,
        "soak_memory_growth": round(late / early, 3),
        "soak_replies": dict(seen.replies),
    }


async def _press(
    url: str, bodies: Sequence[bytes], rate: float, seconds: float, processes: Sequence[psutil.Process]
) -> Soak:
    """An open loop: requests begin when they are due, whatever became of those before."""
    seen, address = Soak(), urlsplit(url)
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    asking: set[asyncio.Task[None]] = set()
    start, looked = time.monotonic(), 0.0
    for body in itertools.cycle(bodies):
        now = time.monotonic() - start
        if now >= seconds:
            break
        if now >= looked:
            looked += LOOK_S
            seen.megabytes.append(sum(one.memory_info().rss for one in processes if one.is_running()) / 1e6)
        due = seen.sent / rate
        if due > now:
            await asyncio.sleep(due - now)
        while len(asking) >= CLIENTS:
            await asyncio.sleep(0.01)
        seen.sent += 1
        task = asyncio.create_task(_ask(address.hostname or "", address.port or 80, body, free, seen))
        asking.add(task)
        task.add_done_callback(asking.discard)
    await asyncio.gather(*asking)
    for _, writer in free:
        writer.close()
    return seen


def _open(free: list[Any]) -> Any:
    """A connection that is free and that the server has not closed meanwhile, as it does with those long idle."""
    while free:
        reader, writer = free.pop()
        if not reader.at_eof():
            return reader, writer
        writer.close()
    return None


async def _ask(host: str, port: int, body: bytes, free: list[Any], seen: Soak) -> None:
    """One request, over a connection that is free, or a new one."""
    try:
        reader, writer = _open(free) or await asyncio.open_connection(host, port)
        head = (
            f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        writer.write(f"{head}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        length = next(int(line.partition(":")[2]) for line in lines if line.lower().startswith("content-length:"))
        answer = json.loads(await reader.readexactly(length))
        status = lines[0].split()[1]
        seen.replies[status if answer else "an empty answer"] += 1
        free.append((reader, writer))
    except (OSError, EOFError, ValueError, StopIteration) as error:
        seen.replies[type(error).__name__] += 1
