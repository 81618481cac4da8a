"""Our application on Ray Serve: against the embedded server, and against the batching that Ray documents."""

from __future__ import annotations

from typing import Any

from serving.classifiers import EAGER
from serving.rounds import in_rounds, loads_table, plain, ratio
from serving.servers import embedded, on_ray, peers
from serving.setting import CONNECTIONS, Bench, models

EMBEDDED, RAY, RAY_DEFAULT = "ours, embedded", "ours on Ray Serve, one replica", "Ray Serve, @serve.batch, torch fp32"
AT_ONCE = (CONNECTIONS, 1)


def ray_host(bench: Bench) -> dict[str, Any]:
    made = models(bench)
    servers = [
        embedded(EMBEDDED, made.original, bench.threads),
        on_ray(RAY, made.original, bench.threads),
        *peers("ray", RAY_DEFAULT, made.original, bench.threads, EAGER),
    ]
    found = in_rounds(bench, servers, made.texts, AT_ONCE)
    print(loads_table(found, AT_ONCE))
    return {
        "ray_vs_embedded": ratio(found, RAY, EMBEDDED, CONNECTIONS),
        "ray_vs_ray_default": ratio(found, RAY, RAY_DEFAULT, CONNECTIONS),
        "ray_loads": plain(found),
    }
