"""Scores of pairs: ranks of the right documents among those of a query, and the correlation with the data's scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from fastserve_core.tasks import MetricSpec
from fastserve_text.embedding.metrics import DEPTH, score_ranking
from fastserve_text.reranking.encoding import Candidate

METRICS: Mapping[str, MetricSpec] = {
    "ndcg10": MetricSpec(unit="%"),
    "mrr10": MetricSpec(unit="%"),
    "recall1": MetricSpec(unit="%"),
    "spearman": MetricSpec(),
    "pearson": MetricSpec(),
}
RANKING = ("ndcg10", "mrr10", "recall1")


def compute_scores(pairs: Sequence[tuple[Candidate, float]]) -> dict[str, float]:
    """Return all scores that are defined.

    A query counts for the ranking if it has documents that are right, with a score above 0, and others.

    Args:
        pairs: What each pair is for, and the model's score.
    """
    queries: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for candidate, score in pairs:
        queries[candidate.query].append((score, candidate.score))
    rankings = [_rank(found) for found in queries.values() if len({score > 0 for _, score in found}) > 1]
    scores = {name: fmean(ranking[name] for ranking in rankings) for name in RANKING} if rankings else {}
    return {**scores, **_correlate([(score, one.score) for one, score in pairs if one.is_scored])}


def _rank(found: Sequence[tuple[float, float]]) -> dict[str, float]:
    # of equal scores, the right document comes last: a model that tells nothing apart is not right
    ordered = sorted(found, key=lambda pair: (-pair[0], pair[1]))
    hits = [truth > 0 for _, truth in ordered]
    return score_ranking(hits[:DEPTH], sum(hits))


def _correlate(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    import numpy as np
    from scipy import stats

    if not pairs:
        return {}
    values, truth = np.asarray(pairs, dtype=np.float64).T
    if np.ptp(truth) == 0:
        return {}
    if np.ptp(values) == 0:
        return {"spearman": 0.0, "pearson": 0.0}
    return {
        "spearman": float(stats.spearmanr(values, truth).statistic),
        "pearson": float(stats.pearsonr(values, truth).statistic),
    }
