"""The best items of a model's scores, the ranks of next items, and the scores of a split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastserve_core.tasks import MetricSpec
from fastserve_recommendation.baselines import BASELINES
from fastserve_recommendation.vocabulary import FIRST_ITEM

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

OTHER_CUTOFFS = (20,)
HIT = MetricSpec(unit="%", is_share_of_rows=True)
METRICS: Mapping[str, MetricSpec] = {
    "ndcg10": MetricSpec(),
    "hr10": HIT,
    "mrr10": MetricSpec(),
    **{f"{name}{cutoff}": spec for cutoff in OTHER_CUTOFFS for name, spec in (("ndcg", MetricSpec()), ("hr", HIT))},
    **{f"{model}_{name}10": spec for model in BASELINES for name, spec in (("ndcg", MetricSpec()), ("hr", HIT))},
}
"""The scores, all of them over all items."""


class RowRanks(NamedTuple):
    """The rank of a row's next item among all items, from 0, by the model and by each baseline."""

    own: int | None
    baselines: tuple[int | None, ...]


def rank_target(scores: Array, target: int, hidden: Iterable[int]) -> int | None:
    """Return how many items have a better score than the next one; ``None`` if the model does not know that.

    An item of an equal score counts as better, so that a model of constant scores has no hits.

    Args:
        scores: Scores of the rows of the item table.
        target: The number of the next item.
        hidden: The numbers of items that are not ranked, unless the next one is among them.
    """
    if target < FIRST_ITEM:
        return None
    own = scores[target]
    better = int((scores[FIRST_ITEM:] >= own).sum()) - 1
    return better - sum(bool(scores[item] >= own) for item in hidden if item != target)


def best_items(scores: Array, count: int, hidden: Iterable[int]) -> list[int]:
    """Return the numbers of the items with the best scores, the best one first; ties are in the order of the numbers.

    Args:
        scores: Scores of the rows of the item table.
        count: How many to return, if there are so many.
        hidden: The numbers of items to leave out.
    """
    import numpy as np

    scores = scores.astype(np.float32)
    left_out = [*range(FIRST_ITEM), *hidden]
    scores[left_out] = -np.inf
    count = max(0, min(count, len(scores) - len(set(left_out))))
    if not count:
        return []
    bound = np.partition(scores, -count)[-count]
    candidates = np.flatnonzero(scores >= bound)
    order = np.argsort(-scores[candidates], kind="stable")
    return [int(number) for number in candidates[order][:count]]


def probabilities(scores: Array, numbers: Sequence[int]) -> list[float]:
    """Return the probability of items among all items."""
    import numpy as np

    items = scores[FIRST_ITEM:].astype(np.float32)
    highest = items.max()
    total = float(np.exp(items - highest).sum())
    return [float(np.exp(scores[number] - highest)) / total for number in numbers]


def score_ranks(ranks: Sequence[RowRanks]) -> dict[str, float]:
    """Return the mean scores of rows, and those of the baselines if the rows have their ranks.

    NDCG of one relevant item is ``1 / log2(rank + 2)`` within the cutoff (Järvelin & Kekäläinen 2002).
    """
    own = [row.own for row in ranks]
    scores = _score(own, 10)
    scores["mrr10"] = sum(1 / (rank + 1) for rank in _within(own, 10)) / len(own)
    for cutoff in OTHER_CUTOFFS:
        scores |= _score(own, cutoff)
    if ranks[0].baselines:
        for name, found in zip(BASELINES, zip(*(row.baselines for row in ranks), strict=True), strict=True):
            scores |= {f"{name}_{metric}": value for metric, value in _score(found, 10).items()}
    return scores


def _score(ranks: Sequence[int | None], cutoff: int) -> dict[str, float]:
    hits = _within(ranks, cutoff)
    gain = sum(1 / math.log2(rank + 2) for rank in hits)
    return {f"ndcg{cutoff}": gain / len(ranks), f"hr{cutoff}": len(hits) / len(ranks)}


def _within(ranks: Sequence[int | None], cutoff: int) -> list[int]:
    return [rank for rank in ranks if rank is not None and rank < cutoff]
