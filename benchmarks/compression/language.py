"""SmolLM2-135M with integer weights: perplexity on movie reviews, size, and tokens a second against the original."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.tables import megabytes, table

from compression.chains import data_of, fastserve
from compression.setting import Bench
from fastserve_core.artifacts import load_artifact, read_json
from fastserve_core.data import load_dataset
from fastserve_core.errors import FastServeError
from fastserve_core.inference import Predictor
from fastserve_core.processes import child_main, run_in_child

WAYS = (("rtn", 8), ("rtn", 4), ("gptq", 4), ("awq", 4), ("teq", 4), ("autoround", 4))
ROWS, TOKENS, BATCHES = 600, 64, (1, 8)
GENERATED = {"max_new_tokens": TOKENS, "temperature": 0.0}


def language(bench: Bench) -> dict[str, Any]:
    """Each of neural-compressor's methods; the torch model in fp32 is the original."""
    found: dict[str, dict[str, Any]] = {}
    for method, bits in WAYS if bench.rows is None else WAYS[:2]:
        try:
            original, made = _quantized(bench, method, bits)
        except FastServeError as error:
            print(f"{method}, {bits} bits: {error}", flush=True)
            continue
        found.setdefault("torch fp32", original | {"engine": "torch"})
        found[f"{method}, {bits} bits"] = made | {"engine": "openvino"}
    models = {name: [one["artifact"], one["engine"]] for name, one in found.items()}
    data = data_of(bench, Path(found["torch fp32"]["artifact"]))
    request = {"models": models, "data": data, "threads": bench.threads, "rounds": 3}
    rates: dict[str, list[float]] = run_in_child("compression.language", request, bench.threads)
    rows = [
        [name, f"{one['perplexity']:.1f}", megabytes(one["bytes"]), *(f"{rate:.0f}" for rate in rates[name]),
         f"{one['seconds']:.0f}"] for name, one in found.items()
    ]  # fmt: skip
    print(table(["weights", "perplexity", "MB", "tokens/s, 1 text", "8 texts", "seconds of the stage"], rows))
    return {"language": {name: one | {"tokens_per_s": rates[name]} for name, one in found.items()}}


def _quantized(bench: Bench, method: str, bits: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The original and the quantized model: folder, size, perplexity over validation and test rows."""
    folder = bench.scratch / f"smollm2-{method}-{bits}"
    option = "compress.neural_compressor"
    given = [f"{option}.method={method}", f"{option}.bits={bits}", f"data.max_rows={bench.rows or ROWS}"]
    fastserve(bench, "+plugin=neural_compressor", "model=smollm2", "task=causal_lm", "data=movie_reviews", *given,
              "engine=openvino", "gate.enabled=false", f"hydra.run.dir={folder}")  # fmt: skip
    original, made = read_json(folder / "run.json")["stages"]
    return _about(original), _about(made)


def _about(stage: Mapping[str, Any]) -> dict[str, Any]:
    scores = [stage["measures"][name]["perplexity"] for name in ("quality_validation", "quality")]
    size = stage["measures"]["size_bytes"]
    perplexity = statistics.geometric_mean(scores)
    return {"artifact": stage["artifact"], "bytes": size, "perplexity": perplexity, "seconds": stage["seconds"]}


def generation(models: Mapping[str, tuple[str, str]], data: str, threads: int, rounds: int, events: str) -> Any:
    """New tokens a second by model and batch, the models in turn; runs in a process of its own."""
    predictors = {name: Predictor(load_artifact(Path(one)), threads, engine) for name, (one, engine) in models.items()}
    rows = load_dataset(Path(data)).rows("validation")[: max(BATCHES)]
    encoded = {name: one.encode(rows) for name, one in predictors.items()}
    rates: dict[str, list[list[float]]] = {name: [[] for _ in BATCHES] for name in models}
    for _ in range(rounds):
        for name, predictor in predictors.items():
            for place, batch in enumerate(BATCHES):
                begin = time.perf_counter()
                answers = predictor.answer(encoded[name][:batch], GENERATED)
                # a text that ends early is still computed until the longest has ended
                made = batch * max(one["tokens"] for one in answers)
                rates[name][place].append(made / (time.perf_counter() - begin))
    return {name: [round(statistics.median(one), 1) for one in several] for name, several in rates.items()}


if __name__ == "__main__":
    child_main(generation)
