"""The demo sets: short texts with mean human sentiment scores, from vaderSentiment's source distribution.

Hutto & Gilbert (2014), VADER: four sets, scored from -4 to 4 by about twenty people each.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_core.errors import BadData, UnknownName
from fastserve_core.fetch import Pin, fetch
from fastserve_core.hashing import stable_hash
from fastserve_core.options import typed
from fastserve_core.task import Record

if TYPE_CHECKING:
    from fastserve_core.data import DataOptions

ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBERS = {
    "movie_reviews": "movieReviewSnippets",
    "product_reviews": "amazonReviewSnippets",
    "news": "nytEditorialSnippets",
    "tweets": "tweets",
}
PIN = Pin(
    package="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    megabytes=2.5,
    members=["*/additional_resources/*.tar.gz", "*/LICENSE.txt"],
    source=True,
)


@dataclass
class DemoOptions:
    """Texts whose mean score lies within ``neutral`` of 0 are left out: people do not agree on them."""

    neutral: float = 0.5


class Demo:
    """``data.name`` is one of the four sets; a positive mean score is the label ``positive``."""

    def fingerprint(self, options: DataOptions, downloads: Path) -> str:
        return stable_hash([PIN.sha256, _member(options.name), typed(DemoOptions, options.options, "data.options")])

    def read(self, options: DataOptions, downloads: Path) -> Mapping[str, Iterator[Record]]:
        folder = fetch(PIN, downloads)
        neutral = typed(DemoOptions, options.options, "data.options").neutral
        return {"train": _records(next(folder.glob(f"*/{ARCHIVE}")), _member(options.name), neutral)}


def _member(name: str) -> str:
    if name not in MEMBERS:
        raise UnknownName("demo set", name, MEMBERS)
    return f"hutto_ICWSM_2014/{MEMBERS[name]}_GroundTruth.txt"


def _records(archive: Path, member: str, neutral: float) -> Iterator[Record]:
    with tarfile.open(archive) as files:
        content = files.extractfile(member)
        if content is None:
            raise BadData(f"{archive.name} has no {member}")
        lines = content.read().decode("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        _, score, text = line.split("\t", 2)
        if abs(float(score)) >= neutral:
            label = "positive" if float(score) > 0 else "negative"
            yield Record(f"{Path(member).name}:{number}", {"text": text, "label": label})
