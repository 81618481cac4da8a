"""Posts on two targets, made of texts with a sentiment: the demo of opinions on a target.

No set of the packages at hand has targets. Two texts drawn at random are joined, each with the name of a target before
it or after it, so that only the name decides which of the two sentiments counts. Neighbours in the file would not do:
they are often parts of one review, and have its sentiment.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from fastserve_core.data import RawRecord

NAMES = (
    "Acme", "Borealis", "Cobalt", "Dunmore", "Everline", "Fenwick", "Globex", "Harrow", "Initech", "Juniper", "Kestrel",
    "Lumen", "Marlow", "Nordic Air", "Orbit", "Pinewood", "Quanta", "Rivet", "Solaris", "Tamarind", "Umbra", "Vertex",
    "Wexford", "Zephyr",
)  # fmt: skip
PATTERNS = ("{name}: {text}", "About {name}: {text}", "{text} ({name})", "{name} - {text}")


def join_posts(records: Iterator[RawRecord]) -> Iterator[RawRecord]:
    """Yield two rows for each two records, drawn at random: the post with one target, and with the other.

    Args:
        records: Records with ``text`` and ``label``; an odd last one is left out.
    """
    draw = Random(0)
    shuffled = list(records)
    draw.shuffle(shuffled)
    for first, second in zip(shuffled[::2], shuffled[1::2], strict=False):
        pairs = list(zip(draw.sample(NAMES, 2), (first.values or {}, second.values or {}), strict=True))
        text = " ".join(draw.choice(PATTERNS).format(name=name, text=values["text"]) for name, values in pairs)
        for name, values in pairs:
            yield RawRecord(
                first.where, {"text": text, "text_pair": name, "label": values["label"], "post": first.where}
            )
