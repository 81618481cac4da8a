"""The load: ``wrk`` with the bodies of a file in turn, each connection with one request at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastserve_core.errors import StageError

SCRIPT = Path(__file__).with_name("load.lua")
WRK = "wrk"
ADVICE = "wrk is not on the PATH, and without it there is no load: apt-get install wrk"
WARM_S, TIMEOUT_S = 2, 30


@dataclass(frozen=True)
class Seen:
    """What a load saw. wrk corrects slow answers for the requests that were not sent meanwhile: p99 is no less."""

    per_s: float
    p50_ms: float
    p99_ms: float


def missing() -> bool:
    return shutil.which(WRK) is None


def write_bodies(path: Path, bodies: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in bodies), encoding="utf-8")
    return path


def play(url: str, bodies: Path, connections: int, seconds: float, warm_s: float = WARM_S) -> Seen:
    """A closed loop for some seconds, after a shorter one that is not counted.

    Raises ``StageError`` when an answer was an error, or when none came.
    """
    _wrk(url, bodies, connections, warm_s)
    found = _wrk(url, bodies, connections, seconds)
    return Seen(found["requests"] / found["seconds"], found["p50_ms"], found["p99_ms"])


def _wrk(url: str, bodies: Path, connections: int, seconds: float) -> dict[str, float]:
    command = [WRK, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT_S}s"]
    done = subprocess.run([*command, "-s", SCRIPT, url, "--", bodies], capture_output=True, text=True)
    last = done.stdout.rstrip().rpartition("\n")[2]
    if done.returncode or not last.startswith("{"):
        raise StageError(f"wrk failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    found: dict[str, float] = json.loads(last)
    if found["failed"] or not found["requests"]:
        raise StageError(f"{url}: {found['failed']:.0f} of {found['requests']:.0f} answers were errors")
    return found
