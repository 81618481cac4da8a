"""The path of a request without a model: an engine that answers at once, the tokenizer as ever."""

from __future__ import annotations

from typing import Any

from serving.classifiers import OURS
from serving.rounds import in_rounds, loads_table, middle, plain, ratio
from serving.servers import embedded, on_ray, peers
from serving.setting import CONNECTIONS, Bench, models
from serving.stub import installed, stub_artifact

EMBEDDED, RAY, LITSERVE, RAY_DEFAULT = "ours", "ours on Ray Serve", "LitServe", "Ray Serve, @serve.batch"


def stubbed(bench: Bench) -> dict[str, Any]:
    made = models(bench)
    with installed(bench.scratch / "stub"):
        artifact = stub_artifact(made.original, bench.scratch / "without-a-model")
        servers = [
            embedded(EMBEDDED, artifact, bench.threads),
            on_ray(RAY, artifact, bench.threads),
            *peers("litserve", LITSERVE, artifact, bench.threads, OURS),
            *peers("ray", RAY_DEFAULT, artifact, bench.threads, OURS),
        ]
        found = in_rounds(bench, servers, made.texts, (CONNECTIONS,))
    print(loads_table(found, (CONNECTIONS,)))
    per_s = round(middle(found[EMBEDDED], CONNECTIONS, lambda one: one.per_s)) if EMBEDDED in found else None
    return {
        "stub_per_s": per_s,
        "stub_vs_litserve": ratio(found, EMBEDDED, LITSERVE, CONNECTIONS),
        "stub_vs_ray_default": ratio(found, EMBEDDED, RAY_DEFAULT, CONNECTIONS),
        "stub_ray_vs_ray_default": ratio(found, RAY, RAY_DEFAULT, CONNECTIONS),
        "stub_loads": plain(found),
    }
