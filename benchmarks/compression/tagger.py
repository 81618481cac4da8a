"""The full stack on a model that tags words: named entities, from files in CoNLL's form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from training.tables import table

from compression.chains import data_of, figures, make
from compression.setting import Bench
from compression.speed import texts
from fastserve_core.errors import OptionError

SPLITS = ("train", "validation", "test")


def tagger(bench: Bench) -> dict[str, Any]:
    """MiniLM trained on the tags, then the chains ``int8`` and ``stack``: points of F1 lost, size, speed."""
    if bench.conll is None:
        raise OptionError(
            "the section tagger needs --conll TRAIN,DEV,TEST: word TAB tag, a blank line between sentences"
        )
    data = [f"data.{name}={_as_jsonl(path, bench.scratch / f'{name}.jsonl')}" for name, path in
            zip(SPLITS, bench.conll, strict=True)]  # fmt: skip
    options = ["task=token_classification", *data]
    made = {name: make(bench, name, bench.seeds[0], options, score="f1") for name in ("int8", "stack")}
    rates = texts(bench, made, data_of(bench, made["int8"].original))
    before = rates["torch fp32 eager"]
    rows = [
        [name, f"{100 * one.qualities[1]:.1f}", f"{one.drop:.2f}", f"{one.size_ratio:.1f}",
         f"{rates[f'ours, {name}']['per_s'] / before['per_s']:.1f}"] for name, one in made.items()
    ]  # fmt: skip
    print(table(["chain", "F1 %", "points lost", "times smaller", "times the throughput"], rows))
    return {"tagger": {name: figures([one], before, rates[f"ours, {name}"]) for name, one in made.items()}}


def _as_jsonl(source: Path, target: Path) -> Path:
    lines = (json.dumps({"tokens": words, "tags": tags}) for words, tags in sentences(source))
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


def sentences(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Words and tags of each sentence; some files have a tab in the lines between sentences."""
    with path.open(encoding="utf-8") as lines:
        for blank, block in groupby(lines, lambda line: not line.strip()):
            if not blank:
                pairs = [line.split("\t") for line in block]
                yield [one[0].strip() for one in pairs], [one[-1].strip() for one in pairs]
