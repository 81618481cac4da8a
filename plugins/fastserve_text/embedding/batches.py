"""The arrays of a training batch: its texts, each once, and the numbers of those that each row has."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve_core.tasks import Arrays, Encoded
from fastserve_text.embedding.encoding import score_of, split, text_key


def make_batch(rows: Sequence[Encoded]) -> tuple[list[Encoded], Arrays]:
    """Return the texts of the rows of a batch, and arrays with their numbers.

    Equal texts are one, so that they are computed once, and none is a negative of itself. A row's first text is apart
    from equal ones among the others: both are the same text under two masks of dropout then (Gao et al. 2021).

    Args:
        rows: The rows.

    Returns:
        The texts; and ``anchors``, ``positives`` and ``twins``, the texts equal to the anchors, of shape (rows,), with
        -1 for none; ``negatives`` of shape (negatives, 2) with the number of the row and of the text; and ``scores``
        of shape (rows,), NaN for none.
    """
    import numpy as np

    texts: list[Encoded] = []
    numbers: dict[tuple[bool, bytes], int] = {}

    def add(text: Encoded, is_first: bool) -> int:
        number = numbers.setdefault((is_first, text_key(text.inputs)), len(texts))
        if number == len(texts):
            texts.append(text)
        return number

    anchors, positives, negatives = [], [], []
    for row, encoded in enumerate(rows):
        first, *others = split(encoded)
        anchors.append(add(first, True))
        positives.append(add(others[0], False) if others else -1)
        negatives += [(row, add(text, False)) for text in others[1:]]
    twins = [numbers.get((False, text_key(texts[number].inputs)), -1) for number in anchors]
    arrays: Arrays = {
        "twins": np.asarray(twins, dtype=np.int64),
        "anchors": np.asarray(anchors, dtype=np.int64),
        "positives": np.asarray(positives, dtype=np.int64),
        "negatives": np.asarray(negatives, dtype=np.int64).reshape(-1, 2),
        "scores": np.asarray([score_of(encoded) for encoded in rows], dtype=np.float32),
    }
    return texts, arrays
