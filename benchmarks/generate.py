"""Writing texts with SmolLM2-135M: tokens a second against others, and short texts among long ones.

    python benchmarks/generate.py [--quick] [--only throughput,mixed] [--out F]

``FASTSERVE_HOME``, where it is set, keeps the models. The last line is ``RESULT {json}``: ``vs_best_peer`` (eight texts
at once, our server over HTTP against the fastest peer in its own process with the same weights and precision, the worse
of fp32 and 8 bits), ``short_job_speedup`` and ``throughput_loss`` (the preemptive scheduler against first come first
served, where 1.2 times as much is asked for as can be written).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import sections
from generation.mixed import mixed
from generation.setting import Bench
from generation.throughput import throughput

from fastserve_core.artifacts import default_home
from fastserve_core.processes import usable_cores

SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {"throughput": throughput, "mixed": mixed}


def main() -> None:
    chosen = sections.parser(__doc__, SECTIONS, "a round of each, 30 jobs").parse_args()
    with sections.scratch() as folder:
        home = default_home() if os.environ.get("FASTSERVE_HOME") else folder / "home"
        quick = {"rounds": 1, "jobs": 30} if chosen.quick else {}
        bench = Bench(home, folder, usable_cores(), **quick)
        result = sections.run(SECTIONS, chosen.only or tuple(SECTIONS), bench, chosen.out)
    sections.finish(result)


if __name__ == "__main__":
    main()
