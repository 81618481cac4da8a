"""Serving a fine-tuned MiniLM, one review a request: our servers against the bare engine and against others.

    python benchmarks/serve.py [--quick] [--only model,stub,ray,soak] [--out F]

It needs ``wrk`` for the load. ``FASTSERVE_HOME``, where it is set, keeps the models. The last line is
``RESULT {json}``: ``vs_ceiling`` (64 requests at a time against the same engine without a server, in sorted full
batches), ``vs_naive`` and ``vs_litserve`` (against FastAPI with a pipeline, and LitServe; ``vs_litserve_same_engine``
has it run ours), ``p99_over_p50``, ``idle_overhead_ms`` (one request at a time against the bare engine),
``idle_beside_pass_ms`` (the same requests beside their passes, by the server's own clocks), ``stub_per_s``
(requests a second without a model), ``ray_vs_embedded``, ``ray_vs_ray_default``, and of ten minutes at twice the rate
``soak_strange_replies`` (neither 200 nor 429) and ``soak_memory_growth``. infinity-emb is not among the
peers: it asks for a transformers that ours cannot share an environment with.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import sections
from serving import load
from serving.model import model
from serving.ray_host import ray_host
from serving.setting import Bench
from serving.soak import soak
from serving.stubbed import stubbed

from fastserve_core.artifacts import default_home
from fastserve_core.processes import usable_cores

SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "model": model, "stub": stubbed, "ray": ray_host, "soak": soak,
}  # fmt: skip
QUICK = {"rounds": 1, "seconds": 3, "rows": 1500, "epochs": 1}


def main() -> None:
    parser = sections.parser(__doc__, SECTIONS, f"a round of {QUICK['seconds']} s each, {QUICK['rows']} rows, an epoch")
    chosen = parser.parse_args()
    if load.missing():
        parser.error(load.ADVICE)
    with sections.scratch() as folder:
        home = default_home() if os.environ.get("FASTSERVE_HOME") else folder / "home"
        bench = Bench(home, folder, usable_cores(), **(QUICK if chosen.quick else {}))
        result = sections.run(SECTIONS, chosen.only or tuple(SECTIONS), bench, chosen.out)
    sections.finish(result)


if __name__ == "__main__":
    main()
