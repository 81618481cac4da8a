"""The ranks of the next items by popularity and by the items' neighbours, with which reports compare a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from fastserve_core.tasks import Row
from fastserve_recommendation.sequences import ITEMS, NEXT, iterate_items

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

POPULARITY, NEIGHBOURS = "popularity", "item_knn"
BASELINES = (POPULARITY, NEIGHBOURS)
USERS_AT_ONCE = 1000


class Baselines:
    """Ranks of items by their counts in the training rows, and by the cosine of the users that they share.

    The score of the neighbours is the sum over a history of the cosine of each item's column of the matrix of users
    and items (Sarwar et al. 2001), without a limit on the number of neighbours.

    Args:
        train: The training rows.
        filter_seen: Whether the items of a history are not ranked.
    """

    def __init__(self, train: Sequence[Row], filter_seen: bool) -> None:
        import numpy as np

        self.filter_seen = filter_seen
        counts = Counter(iterate_items(train))
        ranked = sorted(counts, key=lambda item: (-counts[item], item))
        self.numbers = {item: number for number, item in enumerate(ranked)}
        seen = self._matrix([[*row[ITEMS], row[NEXT]] for row in train])
        norms = np.sqrt(np.asarray(seen.sum(axis=0))).clip(min=1)
        normalized = seen.multiply(1 / norms[None, :]).tocsr()
        self.similarity = (normalized.T @ normalized).tocsr()
        self.similarity.setdiag(0)

    def _matrix(self, histories: Sequence[Sequence[str]]) -> csr_array:
        """Return a matrix of histories and items: 1 if the history has the item."""
        import numpy as np
        from scipy.sparse import csr_array

        known = [sorted({self.numbers[item] for item in items if item in self.numbers}) for items in histories]
        ends = np.cumsum([0, *map(len, known)])
        columns = np.fromiter((number for items in known for number in items), dtype=np.int32, count=int(ends[-1]))
        return csr_array((np.ones(len(columns), np.float32), columns, ends), shape=(len(known), len(self.numbers)))

    def add_ranks(self, rows: Sequence[Row]) -> Iterator[Row]:
        """Yield rows with the rank of their next item by each baseline, from 0; ``None`` for an unknown item."""
        remaining = iter(rows)
        while chunk := list(islice(remaining, USERS_AT_ONCE)):
            scores = (self._matrix([row[ITEMS] for row in chunk]) @ self.similarity).tocsr()
            for number, row in enumerate(chunk):
                begin, end = scores.indptr[number : number + 2]
                yield {**row, **self._ranks(row, scores.indices[begin:end], scores.data[begin:end])}

    def _ranks(self, row: Row, columns: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> dict[str, int | None]:
        import numpy as np

        target = self.numbers.get(row[NEXT])
        if target is None:
            return dict.fromkeys(BASELINES)
        seen = {self.numbers[item] for item in row[ITEMS] if item in self.numbers} if self.filter_seen else set()
        seen.discard(target)
        above = target - sum(item < target for item in seen)
        counted = ~np.isin(columns, list(seen)) & (columns != target)
        own = scores[columns == target]
        best = float(own[0]) if len(own) else 0.0
        better = int((scores[counted] > best).sum())
        # items of an equal score are in the order of their popularity
        if best > 0:
            better += int(((scores == best) & counted & (columns < target)).sum())
        else:
            positive = columns[counted & (scores > 0)]
            better += above - int((positive < target).sum())
        return {POPULARITY: above, NEIGHBOURS: better}
