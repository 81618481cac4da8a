"""New tokens a second at several texts at once: our server over HTTP against others in their own process."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from training.tables import table

from fastserve_core.entry_points import missing_packages
from fastserve_core.errors import FastServeError
from fastserve_core.processes import run_in_child
from fastserve_engines.lowering import get_or_lower
from generation.gguf8 import in_8_bits
from generation.ours import rate, serving
from generation.peers import NEEDS, graph_with_tokenizer
from generation.setting import CONCURRENCY, Bench, Models, models, prompts

GRAPHS = ("fp32", "8 bits")


def throughput(bench: Bench) -> dict[str, Any]:
    """All in turn, every round; each with the weights that ours has in that line."""
    made = models(bench)
    asked = [prompts(count) for count in CONCURRENCY]
    found: dict[str, list[list[float]]] = {}
    peers = _peers(bench, made)
    for _ in range(bench.rounds):
        for weights, artifact in zip(GRAPHS, (made.original, made.quantized), strict=True):
            with serving(artifact, bench.threads) as server:
                for several in asked:
                    rate(server.url, several)
                found.setdefault(f"ours, {weights}", []).append([rate(server.url, several) for several in asked])
        for name, (peer, model) in peers.items():
            request = {"peer": peer, "model": model, "prompts": asked, "threads": bench.threads}
            try:
                rates: list[float] = run_in_child("generation.peers", request, bench.threads)
            except FastServeError as error:
                print(f"{name} failed: {error}", flush=True)
                continue
            found.setdefault(name, []).append(rates)
    middle = {name: [statistics.median(one) for one in zip(*several, strict=True)] for name, several in found.items()}
    print(table(["", *(f"tokens/s, {one} at once" for one in CONCURRENCY)],
                [[name, *(f"{one:.0f}" for one in rates)] for name, rates in middle.items()]))  # fmt: skip
    return {"vs_best_peer": _ratios(middle), "tokens_per_s": middle}


def _ratios(middle: dict[str, list[float]]) -> float | None:
    """Ours against the best peer with the same weights, all texts at once: the worse of the two."""
    ratios = []
    for weights in GRAPHS:
        rivals = [rates[-1] for name, rates in middle.items() if not name.startswith("ours") and weights in name]
        if rivals:
            ratios.append(middle[f"ours, {weights}"][-1] / max(rivals))
    return round(min(ratios), 3) if ratios else None


def _peers(bench: Bench, made: Models) -> dict[str, tuple[str, Path]]:
    """By name, the peer and the model; one that is not installed is named and left out."""
    missing = {name: missing_packages(packages) for name, packages in NEEDS.items()}
    for name, packages in missing.items():
        if packages:
            print(f"{name}: missing here, it needs {', '.join(packages)}", flush=True)
    found = {} if missing["transformers"] else {"transformers, fp32": ("transformers", made.original)}
    if not missing["openvino_genai"]:
        graphs = (get_or_lower(made.original, bench.threads), made.quantized)
        for weights, graph in zip(GRAPHS, graphs, strict=True):
            folder = graph_with_tokenizer(made.original, bench.scratch / f"genai-{weights[0]}", graph)
            found[f"OpenVINO GenAI, {weights}"] = ("openvino_genai", folder)
    if not missing["llama_cpp"]:
        fetched = next(bench.home.glob("downloads/*/*/*.gguf"))
        found["llama.cpp, 8 bits"] = ("llama_cpp", in_8_bits(fetched, bench.scratch / "model.gguf"))
    return found
