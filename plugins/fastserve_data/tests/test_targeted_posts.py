"""The demo of opinions on a target: a post has two, and each decides its own label."""

from __future__ import annotations

from collections import Counter

from fastserve_core.data import RawRecord
from fastserve_data.targeted_posts import PATTERNS, join_posts


def test_each_row_names_the_target_of_its_sentiment() -> None:
    labels = ("positive", "negative", "negative")
    records = [RawRecord(f"x:{one}", {"text": f"text {one}.", "label": labels[one % 3]}) for one in range(41)]
    rows = [record.values for record in join_posts(iter(records))]
    assert len(rows) == 40
    for number, row in enumerate(rows):
        assert row is not None
        assert row["label"] == labels[number % 3]
        assert any(one.format(name=row["text_pair"], text=f"text {number}.") in row["text"] for one in PATTERNS)
    assert set(Counter(row["post"] for row in rows if row).values()) == {2}
    assert rows == [record.values for record in join_posts(iter(records))]
