"""Scores of vectors: the correlation of similarities with those of the data, and the ranks of the right texts.

Each text of a split is embedded once. Every query is compared with every document of the split, those of other rows
included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastserve_core.errors import DataError
from fastserve_core.tasks import Encoded, MetricSpec
from fastserve_text.embedding.encoding import score_of, split, text_key

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, Any]

DEPTH = 10
"""How many documents of a ranking count."""
QUERIES_AT_ONCE = 256
METRICS: Mapping[str, MetricSpec] = {
    "spearman": MetricSpec(),
    "ndcg10": MetricSpec(unit="%"),
    "mrr10": MetricSpec(unit="%"),
    "recall10": MetricSpec(unit="%"),
    "recall1": MetricSpec(unit="%"),
    "pearson": MetricSpec(),
}


def find_objective(scores: Mapping[str, float], metric: str | None, metrics: Mapping[str, MetricSpec]) -> float:
    """Return the score that decides a training: the chosen one, or the first of the metrics that is defined.

    Args:
        scores: The scores of the validation split.
        metric: The name of the chosen one, if any.
        metrics: All metrics of the task.

    Raises:
        DataError: The rows do not define it.
    """
    name = metric or next((name for name in metrics if name in scores), next(iter(metrics)))
    if name not in scores:
        raise DataError(
            f"task.metric={name} is not defined on the validation split: spearman and pearson need rows with "
            "different scores, and the ranking needs queries with right and other documents"
        )
    return scores[name]


@dataclass
class TextUse:
    """What one text of a split is for.

    Attributes:
        number: Its number among the texts.
        scored: The numbers of the texts that it is compared with, and the scores.
        relevant: The numbers of the documents that it has to find, if it is a query.
        is_document: Whether queries are compared with it.
    """

    number: int
    scored: list[tuple[int, float]] = field(default_factory=list)
    relevant: set[int] = field(default_factory=set)
    is_document: bool = False


def list_texts(rows: Sequence[Encoded]) -> list[Encoded]:
    """Return each text of some rows once, with its ``TextUse`` as ``decode_state``."""
    texts: dict[bytes, Encoded] = {}

    def use(text: Encoded) -> TextUse:
        known = texts.setdefault(text_key(text.inputs), Encoded(text.inputs, decode_state=TextUse(len(texts))))
        state: TextUse = known.decode_state
        return state

    for row in rows:
        first, *others = (use(text) for text in split(row))
        if others and not math.isnan(score := score_of(row)):
            first.scored.append((others[0].number, score))
        elif others:
            first.relevant.add(others[0].number)
            for other in others:
                other.is_document = True
    return list(texts.values())


def compute_scores(texts: Sequence[tuple[TextUse, Matrix]]) -> dict[str, float]:
    """Return all scores that are defined for the texts of a split.

    Args:
        texts: The use of each text, and its vector of the length 1.
    """
    import numpy as np

    ordered = sorted(texts, key=lambda text: text[0].number)
    vectors, uses = np.stack([vector for _, vector in ordered]), [use for use, _ in ordered]
    pairs = [(use.number, other, score) for use in uses for other, score in use.scored]
    scores = _correlate(vectors, pairs) if pairs else {}
    queries = [use for use in uses if use.relevant]
    return {**scores, **_rank(vectors, uses, queries)} if queries else scores


def _correlate(vectors: Matrix, pairs: Sequence[tuple[int, int, float]]) -> dict[str, float]:
    import numpy as np
    from scipy import stats

    firsts, seconds, scores = zip(*pairs, strict=True)
    similarities, truth = (vectors[list(firsts)] * vectors[list(seconds)]).sum(1), np.asarray(scores)
    if np.ptp(truth) == 0:
        return {}
    if np.ptp(similarities) == 0:
        return {"spearman": 0.0, "pearson": 0.0}
    return {
        "spearman": float(stats.spearmanr(similarities, truth).statistic),
        "pearson": float(stats.pearsonr(similarities, truth).statistic),
    }


def _rank(vectors: Matrix, uses: Sequence[TextUse], queries: Sequence[TextUse]) -> dict[str, float]:
    import numpy as np

    documents = np.asarray([use.number for use in uses if use.is_document])
    found: dict[str, list[float]] = {name: [] for name in ("ndcg10", "mrr10", "recall10", "recall1")}
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = queries[start : start + QUERIES_AT_ONCE]
        similarities = vectors[[use.number for use in part]] @ vectors[documents].T
        for use, row in zip(part, similarities, strict=True):
            row[documents == use.number] = -np.inf  # a text does not find itself
            best = np.argsort(-row, kind="stable")[:DEPTH]
            for name, value in score_ranking(
                [int(documents[place]) in use.relevant for place in best], len(use.relevant)
            ).items():
                found[name].append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def score_ranking(hits: Sequence[bool], relevant: int) -> dict[str, float]:
    """Return the scores of one ranking.

    Args:
        hits: Whether each of the first documents is relevant, the best one first.
        relevant: The number of relevant documents.
    """
    gains = [1 / math.log2(rank + 2) for rank in range(DEPTH)]
    gain = sum(gains[rank] for rank, hit in enumerate(hits[:DEPTH]) if hit)
    first = next((rank for rank, hit in enumerate(hits[:DEPTH]) if hit), None)
    return {
        "ndcg10": gain / sum(gains[: min(relevant, DEPTH)]),
        "mrr10": 0.0 if first is None else 1 / (first + 1),
        "recall10": sum(hits[:DEPTH]) / relevant,
        "recall1": sum(hits[:1]) / relevant,
    }
