"""How fast what the chains made is: over batches and lengths, against others' models, and over real texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from compression.chains import Made
from compression.handmade import NEEDS
from compression.setting import SHAPES, Bench
from fastserve_core.entry_points import missing_packages
from fastserve_core.errors import FastServeError
from fastserve_core.processes import run_in_child

BY_HAND = ("openvino", "openvino_int8")
"""What a user could make with OpenVINO's own tools from the same checkpoint; the others are told only."""
RUNS = {"openvino": "openvino", "openvino_int8": "openvino", "onnxruntime_int8": "onnxruntime"}


def handmade(bench: Bench, model: Path, data: Path) -> dict[str, dict[str, str]]:
    """The peers' files by name, and what runs them; one that cannot be made is named and left out."""
    found = {}
    for kind, packages in NEEDS.items():
        if missing := missing_packages(packages):
            print(f"{kind}: missing here, it needs {', '.join(missing)}", flush=True)
            continue
        request = {"model": model, "data": data, "folder": bench.scratch, "kind": kind}
        try:
            path = run_in_child("compression.handmade", request, bench.threads)
        except FastServeError as error:
            print(f"{kind}: could not be made: {error}", flush=True)
            continue
        found[kind] = {"kind": RUNS[kind], "path": path}
    return found


def grid(bench: Bench, made: Mapping[str, Made], data: Path) -> dict[str, list[float]]:
    """Milliseconds by model and shape, all of them timed in turn."""
    original = made["int8"].original
    models: dict[str, dict[str, str]] = {"torch fp32 eager": {"kind": "torch", "path": str(original)}}
    models |= handmade(bench, original, data)
    models |= {f"ours, {name}": {"kind": "artifact", "path": str(one.result)} for name, one in made.items()}
    request = {"what": "shapes", "models": models, "shapes": SHAPES, "rounds": bench.rounds, "threads": bench.threads}
    found: dict[str, list[float]] = run_in_child("compression.grid", request, bench.threads)
    return found


def texts(bench: Bench, made: Mapping[str, Made], data: Path) -> dict[str, dict[str, float]]:
    """Held-out texts a second and milliseconds of one, by model; torch's is the original on the engine torch."""
    artifacts = {"torch fp32 eager": {"path": str(made["int8"].original), "engine": "torch"}}
    artifacts |= {f"ours, {name}": {"path": str(one.result), "engine": "openvino"} for name, one in made.items()}
    request = {"what": "texts", "artifacts": artifacts, "data": data, "rounds": bench.rounds, "threads": bench.threads}
    found: dict[str, dict[str, float]] = run_in_child("compression.grid", request, bench.threads)
    return found


def versus(times: Mapping[str, Sequence[float]], ours: str, others: Sequence[str]) -> float | None:
    """How many times as fast ours is as the fastest of the others, at the shape where that is least."""
    there = [times[name] for name in others if name in times]
    if not there:
        return None
    return round(min(min(rivals) / own for own, *rivals in zip(times[ours], *there, strict=True)), 3)
