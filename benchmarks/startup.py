"""How long the quick screens take, against a bare ``import hydra`` in the same run.

    python benchmarks/startup.py [--quick]

The commands run in turn, round after round, so that a change of the machine's speed meets all alike.
The last line is ``RESULT {json}``: ``vs_import_hydra`` is the slower screen's ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

PLUGINS = "+plugin=[nevergrad,torch_ddp,neural_compressor]"
COMMANDS = {
    "import hydra": [sys.executable, "-c", "import hydra"],
    "no arguments": [sys.executable, "-m", "fastserve_core"],
    "--cfg job": [sys.executable, "-m", "fastserve_core", PLUGINS, "data=movie_reviews", "--cfg", "job"],
}


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds of each command in each round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for name, command in COMMANDS.items():
                begin = time.perf_counter()
                subprocess.run(command, cwd=folder, check=True, capture_output=True)
                if number:
                    times[name].append(time.perf_counter() - begin)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 25")
    times = measure(5 if parser.parse_args().quick else 25)
    bare = times["import hydra"]
    result: dict[str, float] = {}
    print(f"{'command':<14}{'median s':>10}{'min':>8}{'max':>8}{'ratio':>8}")
    for name, seconds in times.items():
        ratio = statistics.median(one / other for one, other in zip(seconds, bare, strict=True))
        middle = statistics.median(seconds)
        print(f"{name:<14}{middle:>10.3f}{min(seconds):>8.3f}{max(seconds):>8.3f}{ratio:>8.2f}")
        result[name] = round(ratio, 3)
    worst = max(ratio for name, ratio in result.items() if name != "import hydra")
    print("RESULT " + json.dumps({"vs_import_hydra": worst, "ratios": result, "rounds": len(bare)}))


if __name__ == "__main__":
    main()
