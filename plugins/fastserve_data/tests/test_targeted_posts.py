"""The demo of opinions on a target: a post has two, and each decides its own label."""

from __future__ import annotations

from fastserve_core.data import RawRecord
from fastserve_data.targeted_posts import PATTERNS, join_posts


def test_each_row_names_the_target_of_its_sentiment() -> None:
    texts = {f"text {number}.": ("positive", "negative")[number < 30] for number in range(61)}
    records = [RawRecord(f"x:{text}", {"text": text, "label": label}) for text, label in texts.items()]
    rows = [record.values for record in join_posts(iter(records))]
    assert len(rows) == 60
    opposite = 0
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first is not None
        assert second is not None
        assert (first["text"], first["post"]) == (second["text"], second["post"])
        for row in (first, second):
            joined = {text: [one.format(name=row["text_pair"], text=text) for one in PATTERNS] for text in texts}
            (own,) = [text for text, forms in joined.items() if any(form in row["text"] for form in forms)]
            assert row["label"] == texts[own]
        opposite += first["label"] != second["label"]
    assert 8 <= opposite <= 22  # neighbours in the file have one label
    assert rows == [record.values for record in join_posts(iter(records))]
