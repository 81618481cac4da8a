"""Compressing MiniLM trained on the movie reviews, against torch in fp32 and against models made by hand.

    python benchmarks/compress.py [--quick] [--only encoder,tagger,language] [--seeds 0,1,2]
                                  [--conll TRAIN,DEV,TEST] [--out F]

The chains are run as a user runs them, on the command line; ``FASTSERVE_HOME``, where it is set, keeps what they made,
and a second run takes it from there. Then everything is timed in turn, in one process. The last line is
``RESULT {json}``: ``int8`` and ``stack``, each with ``size_ratio``, ``throughput_ratio`` and ``latency_ratio`` (over
held-out texts, against torch in fp32), and ``quality_drop`` (points on validation and test together, the mean of the
seeds); ``vs_handmade_openvino`` is how many times as fast the 8-bit model is as the faster one of OpenVINO's own bf16
and int8, at the batch and length where that is least.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import sections
from compression.chains import Made, chains, data_of, figures, mean_and_spread
from compression.language import language
from compression.setting import SHAPES, Bench
from compression.speed import BY_HAND, grid, texts, versus
from compression.tagger import tagger
from training.tables import megabytes, table

from fastserve_core.artifacts import default_home
from fastserve_core.processes import usable_cores

QUICK_ROWS, QUICK_ROUNDS = 1500, 5


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = sections.parser(__doc__, SECTIONS, f"{QUICK_ROWS} rows, an epoch, one seed, {', '.join(QUICK)}")
    parser.add_argument("--seeds", type=sections.numbers, help="of the chains (0,1,2; quick: 0)")
    parser.add_argument("--conll", type=_files, help="TRAIN,DEV,TEST of the section tagger, in CoNLL's form")
    return parser.parse_args(given)


def _files(text: str) -> tuple[Path, Path, Path]:
    train, validation, test = map(Path, text.split(","))
    return train, validation, test


def encoder(bench: Bench) -> dict[str, Any]:
    """INT8 alone, the full stack, and a control that is trained as long and not pruned."""
    made = chains(bench)
    first = {name: made[name][0] for name in ("int8", "stack")}
    data = data_of(bench, first["int8"].original)
    over_texts, over_shapes = texts(bench, first, data), grid(bench, first, data)
    print("\n" + table(["chain", "points lost", "MB", "times smaller"], [_chain(*one) for one in made.items()]) + "\n")
    print(table(["one pass, ms", *(f"{batch}×{length}" for batch, length in SHAPES)], _rows(over_shapes)) + "\n")
    print(
        table(
            ["held-out texts", "texts a second", "ms, one text"],
            [[name, *one.values()] for name, one in over_texts.items()],
        )
    )
    result: dict[str, Any] = {
        name: figures(made[name], over_texts["torch fp32 eager"], over_texts[f"ours, {name}"]) for name in first
    }
    result["control"] = {"quality_drop": round(fmean(one.drop for one in made["control"]), 2)}
    result["shapes_ms"] = over_shapes
    if (ratio := versus(over_shapes, "ours, int8", BY_HAND)) is not None:
        result["vs_handmade_openvino"] = ratio
    return result


def _chain(name: str, made: Sequence[Made]) -> list[object]:
    size, ratio = fmean(one.sizes[1] for one in made), fmean(one.size_ratio for one in made)
    return [name, mean_and_spread([one.drop for one in made]), megabytes(size), f"{ratio:.1f}"]


def _rows(times: Mapping[str, Sequence[float]]) -> list[list[object]]:
    return [[name, *(f"{one:.2f}" for one in values)] for name, values in times.items()]


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {"encoder": encoder, "tagger": tagger, "language": language}
QUICK = ("encoder",)


def main() -> None:
    chosen = arguments()
    with sections.scratch() as folder:
        home = default_home() if os.environ.get("FASTSERVE_HOME") else folder / "home"
        quick = {"rows": QUICK_ROWS, "epochs": 1, "rounds": QUICK_ROUNDS} if chosen.quick else {}
        seeds = chosen.seeds or ((0,) if chosen.quick else (0, 1, 2))
        names = chosen.only or (QUICK if chosen.quick else tuple(SECTIONS))
        bench = Bench(home, folder, usable_cores(), seeds, **quick, conll=chosen.conll)
        result = sections.run(SECTIONS, names, bench, chosen.out)
    sections.finish(result)


if __name__ == "__main__":
    main()
