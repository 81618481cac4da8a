"""Hard negatives: texts of other rows that a model takes for close ones, found among all documents of the data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.inference import length_batches
from fastserve_core.tasks import Row
from fastserve_text.embedding.rows import row_texts
from fastserve_text.embedding.sentence_settings import DOCUMENT, QUERY

if TYPE_CHECKING:
    import numpy as np

    from fastserve_text.embedding.task import Embedding

    Matrix = np.ndarray[Any, Any]

MAX_SHARE = 0.95
"""A text closer than this share of the similarity of the right one may be right as well, and is left out."""
QUERIES_AT_ONCE = 256
BATCH = 64
DIGITS = 3
"""Similarities are compared with so many digits, so that every machine finds the same texts."""


def embed_with(task: Embedding, folder: Path) -> Callable[[Sequence[str], bool], Matrix]:
    """Return a function that embeds texts with the model of a folder.

    Args:
        task: The task of embeddings, with its options.
        folder: The folder of the model.

    Returns:
        A function of texts, and of whether they are queries, which returns vectors of the length 1.
    """
    import numpy as np
    import torch
    from torch.nn import functional

    model, encode = task.build(folder).float().eval(), task.encoder(folder)

    def embed(texts: Sequence[str], is_query: bool) -> Matrix:
        name = QUERY if is_query else DOCUMENT
        prompt = name if name in task.settings.prompts else ""
        encoded = encode([{"text": text, "prompt_name": prompt} for text in texts])
        vectors: list[Any] = [None] * len(encoded)
        with torch.inference_mode():
            for numbers in length_batches(encoded, BATCH):
                arrays = task.collate([encoded[number] for number in numbers])
                inputs = {key: torch.from_numpy(array) for key, array in arrays.items() if key in accepted}
                unit = functional.normalize(model(**inputs)["embedding"], dim=-1).numpy()
                for number, vector in zip(numbers, unit, strict=True):
                    vectors[number] = vector
        return np.stack(vectors)

    accepted = set(signature(model.forward).parameters)
    return embed


def mine_negatives(
    rows: Sequence[Row], count: int, embed: Callable[[Sequence[str], bool], Matrix], report: Callable[[str], None]
) -> dict[str, list[str]]:
    """Find the texts of other rows that are closest to each query without being right for it.

    Args:
        rows: The training rows; those with a score are left out.
        count: The number of texts for each query.
        embed: Returns the vectors of texts, of the length 1; the second argument is whether they are queries.
        report: Called with a message on the result.

    Returns:
        The texts by the query's, the closest first.
    """
    right: dict[str, set[str]] = defaultdict(set)
    documents: dict[str, None] = {}
    for row in rows:
        if row.get("positive") and row.get("score") is None:
            right[row["text"]].add(row["positive"])
            documents |= dict.fromkeys(list(row_texts(row))[1:])
    if not right:
        report("no hard negatives are mined: all rows have scores")
        return {}
    queries, names = list(right), list(documents)
    vectors, corpus = embed(queries, True), embed(names, False)
    places = {name: place for place, name in enumerate(names)}
    found: dict[str, list[str]] = {}
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = queries[start : start + QUERIES_AT_ONCE]
        similarities = (vectors[start : start + len(part)] @ corpus.T).round(DIGITS)
        for query, row in zip(part, similarities, strict=True):
            known = [places[name] for name in right[query]]
            found[query] = _choose(query, row, known, names, count)
    missing = sum(len(texts) < count for texts in found.values())
    report(
        f"hard negatives: {sum(map(len, found.values()))} for {len(queries)} queries, of {len(names)} documents"
        + (f"; {missing} queries have fewer than {count}" if missing else "")
    )
    return found


def _choose(query: str, similarities: Matrix, known: Sequence[int], names: Sequence[str], count: int) -> list[str]:
    """Return the closest documents that are neither right, nor the query, nor about as close as the right ones."""
    import numpy as np

    limit = MAX_SHARE * min(similarities[place] for place in known)
    allowed = similarities <= limit
    allowed[list(known)] = False
    order = np.argsort(np.where(allowed, -similarities, np.inf), kind="stable")[: count + 1]
    return [names[place] for place in order if allowed[place] and names[place] != query][:count]


def add_negatives(row: Row, mined: Mapping[str, Sequence[str]], count: int) -> Row:
    """Return a row with up to ``count`` negatives: its own ones and then mined ones."""
    more = mined.get(row["text"], ()) if row.get("score") is None and row.get("positive") else ()
    texts = list(dict.fromkeys([*(row.get("negative") or ()), *more]))
    return {**row, "negative": texts[: max(count, len(row.get("negative") or ()))]} if texts else row
