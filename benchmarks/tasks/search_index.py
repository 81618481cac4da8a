"""An index of all texts at hand: product quantization and rescoring, against exact search and sentence-transformers.

Every method answers one query at a time, in turns. Ours is timed with its filters' and deletions' checks and with the
reading of the texts that it finds; the others return numbers of rows.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from training.tables import table

from fastserve_core.api import model_spec
from fastserve_core.artifacts import TRAINABLE, Manifest, Store, copy_tree, default_home, hash_files, write_manifest
from fastserve_core.config import ModelSpec
from fastserve_core.entry_points import missing_packages
from fastserve_core.inference import Predictor
from fastserve_core.models import resolve_model
from fastserve_core.tasks import load_task
from fastserve_search.codes import code_size
from fastserve_search.index import SearchIndex, SearchRequest
from fastserve_search.passages import Passage
from fastserve_search.store import CutDocument, Document
from tasks.setting import Bench

QUERIES, QUICK_QUERIES, QUICK_TEXTS = 1_000, 200, 12_000
HITS, ROUNDS, MAX_LENGTH, CHUNK = 10, 5, 64, 4_096
SENTENCE = re.compile(r"(?<=[.!?])\s+")
PEER_NEEDS = ("sentence_transformers", "faiss")
Search = Callable[[Any], Sequence[int]]
"""Returns the rows that are nearest to a query, given its vector of shape (1, width)."""


def list_texts(data: Path) -> list[str]:
    """Return the different English texts of the labelled sets; abstracts are cut into sentences."""
    return list(dict.fromkeys(text.strip() for text in _read_texts(data) if text and text.strip()))


def _read_texts(data: Path) -> Iterator[str]:
    for name in ("banking77_train.csv", "banking77_test.csv"):
        with (data / name).open(encoding="utf-8", newline="") as file:
            yield from (row["text"] for row in csv.DictReader(file))
    for rows in json.loads((data / "clinc150.json").read_text(encoding="utf-8")).values():
        yield from (text for text, _ in rows)
    for split in ("train", "dev", "test"):
        yield from (data / "atis" / split / "seq.in").read_text(encoding="utf-8").splitlines()
        for block in (data / f"wnut17_{split}.conll").read_text(encoding="utf-8").split("\n\n"):
            yield " ".join(line.split("\t")[0] for line in block.splitlines())
        for line in (data / f"scitldr_a_{split}.jsonl").read_text(encoding="utf-8").splitlines():
            yield from json.loads(line)["source"]
    for split in ("train", "test"):
        with (data / f"stsb_en_{split}.csv").open(encoding="utf-8", newline="") as file:
            yield from (text for row in csv.reader(file) for text in row[:2])
        lines = (data / f"semeval10t8_{split}.tsv").read_text(encoding="utf-8").splitlines()
        yield from (re.sub(r"</?e[12]>", "", line.split("\t")[1]) for line in lines if "\t" in line)
    for article in json.loads((data / "pubmedqa.json").read_text(encoding="utf-8")).values():
        yield article["QUESTION"]
        yield from (sentence for text in article["CONTEXTS"] for sentence in SENTENCE.split(text))
    for article in json.loads((data / "xquad.en.json").read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            yield paragraph["context"]
            yield from (question["question"] for question in paragraph["qas"])


def make_embedder(folder: Path) -> Predictor:
    """Return the untouched MiniLM as a model of vectors."""
    task = load_task("embedding", {"max_length": MAX_LENGTH})
    spec: ModelSpec = model_spec({"model": "minilm"})
    checkpoint = resolve_model(spec, task, None, Store(default_home()), seed=0).folder
    copy_tree(checkpoint, folder)
    task.complete_artifact(folder, checkpoint)
    runtime = {"engine": "torch", "form": TRAINABLE}
    files = hash_files(folder)
    return Predictor(
        write_manifest(folder, Manifest("embedding", {"max_length": MAX_LENGTH}, (), runtime, (), files)),
        engine="openvino",
    )


def embed(texts: Sequence[str], folder: Path) -> Any:
    """Return the vectors of texts, of shape (texts, width), of length 1."""
    predictor = make_embedder(folder)
    found = []
    for start in range(0, len(texts), CHUNK):
        answers = predictor.predict(texts[start : start + CHUNK], 64, {"normalize": True})
        found.append(np.asarray([answer["embedding"] for answer in answers], dtype=np.float32))
        print(f"{min(start + CHUNK, len(texts))} of {len(texts)} texts", flush=True)
    return np.concatenate(found)


def build(folder: Path, texts: Sequence[str], vectors: Any) -> SearchIndex:
    """Return our index of texts, whose ids are their rows."""
    folder.mkdir()
    built = SearchIndex.create(folder, vectors.shape[1], {"model": "minilm"})
    for start in range(0, len(texts), CHUNK):
        rows = range(start, min(start + CHUNK, len(texts)))
        built.add([CutDocument(Document(str(row), texts[row]), [Passage(0, len(texts[row]))], vectors[row : row + 1])
                   for row in rows])  # fmt: skip
    built.recode("pq")
    return built


def search_ours(built: SearchIndex) -> Search:
    request = SearchRequest(HITS)
    return lambda query: [int(hit.passage.id) for hit in built.search(query, [""], request)[0]]


def search_exactly(vectors: Any) -> Search:
    """Search by numpy, as fast as it does."""

    def search(query: Any) -> Sequence[int]:
        scores = vectors @ query[0]
        best = np.argpartition(-scores, HITS)[:HITS]
        found: list[int] = best[np.argsort(-scores[best])].tolist()
        return found

    return search


def peers(vectors: Any) -> dict[str, tuple[Search, int]]:
    """Return the searches of sentence-transformers with their bytes a vector: 8 bits and 1 bit, both with rescoring."""
    if missing := missing_packages(PEER_NEEDS):
        print(f"sentence-transformers: missing here, it needs {', '.join(missing)}", flush=True)
        return {}
    from sentence_transformers.quantization import quantize_embeddings, semantic_search_faiss

    found: dict[str, tuple[Search, int]] = {}
    for name, precision, count in (("int8", "uint8", vectors.shape[1]), ("binary", "ubinary", vectors.shape[1] // 8)):
        coded = quantize_embeddings(vectors, precision)
        _, _, corpus = semantic_search_faiss(
            vectors[:1], corpus_embeddings=coded, corpus_precision=precision, calibration_embeddings=vectors,
            top_k=HITS, exact=True, output_index=True,
        )  # fmt: skip

        def search(query: Any, corpus: Any = corpus, precision: str = precision) -> Sequence[int]:
            hits, _ = semantic_search_faiss(
                query, corpus_index=corpus, corpus_precision=precision, calibration_embeddings=vectors,
                top_k=HITS, rescore=True, rescore_multiplier=4, exact=True,
            )  # fmt: skip
            return [int(hit["corpus_id"]) for hit in hits[0]]

        found[name] = search, count
    return found


def index(bench: Bench) -> dict[str, Any]:
    """Compare the searches on texts of their own as queries."""
    texts = list_texts(bench.data)
    order = np.random.default_rng(bench.seeds[0]).permutation(len(texts))
    texts = [texts[place] for place in (order[:QUICK_TEXTS] if bench.rows else order)]
    vectors = embed(texts, bench.scratch / "embedder")
    count = QUICK_QUERIES if bench.rows else QUERIES
    return {"index": measure(texts[count:], vectors[count:], vectors[:count], bench.scratch / "index")}


def measure(texts: Sequence[str], vectors: Any, queries: Any, folder: Path) -> dict[str, Any]:
    """Return the recall and the speed of each search, in turns, and the sizes."""
    built = build(folder, texts, vectors)
    exact = vectors.nbytes
    others = peers(vectors)
    methods = {"exact": search_exactly(vectors), "ours": search_ours(built)}
    methods |= {name: search for name, (search, _) in others.items()}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    rows: dict[str, list[Sequence[int]]] = {name: [] for name in methods}
    for part in np.array_split(queries, ROUNDS):
        for name, search in methods.items():
            begin = time.perf_counter()
            rows[name] += [search(query[None]) for query in part]
            seconds[name].append((time.perf_counter() - begin) / len(part))
    truth = [set(found) for found in rows["exact"]]
    recall = {name: statistics.mean(len(true & set(found)) / HITS for true, found in zip(truth, own, strict=True))
              for name, own in rows.items()}  # fmt: skip
    speed = {name: statistics.median(first / other for first, other in zip(seconds["exact"], own, strict=True))
             for name, own in seconds.items()}  # fmt: skip
    sizes = {"exact": exact, "ours": code_size(vectors.shape[1]) * len(vectors)} | {
        name: size * len(vectors) for name, (_, size) in others.items()
    }
    cells = [[name, f"{recall[name]:.3f}", f"{exact / sizes[name]:.1f}", f"{speed[name]:.1f}",
              f"{1000 * statistics.median(seconds[name]):.2f}"] for name in methods]  # fmt: skip
    print(f"{len(vectors)} vectors of {vectors.shape[1]}, {len(queries)} queries, one at a time")
    print(table(["index", "recall@10", "times smaller", "times as fast", "ms a query"], cells))
    results = {name: {"recall": round(recall[name], 4), "vs_exact": round(speed[name], 2),
                      "size_ratio": round(exact / sizes[name], 2)} for name in methods if name != "exact"}  # fmt: skip
    memory = round(exact / built.codes_bytes, 2)
    print(f"ours with the tables of centroids: {memory} times smaller")
    return {"vectors": len(vectors), **results.pop("ours"), "memory_ratio": memory, **results}


SECTIONS = {"index": index}
