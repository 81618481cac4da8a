"""Alarms: a share of a day that has left the band of the days before."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

from fastserve_core.errors import DataError, OptionError, wrap_write_errors
from fastserve_opinion.shares import DailyCounts

TIMEOUT_SECONDS = 5


@dataclass(frozen=True)
class Alarm:
    """A share that has left its band.

    Attributes:
        day: The day, as ISO 8601 writes it.
        target: The target.
        label: The label.
        posts: The number of posts on the target on that day.
        share: The share of the label among them.
        low: The lower bound of its interval.
        high: The upper bound.
        band_low: The lower bound of the band.
        band_high: The upper bound.
    """

    day: str
    target: str
    label: str
    posts: int
    share: float
    low: float
    high: float
    band_low: float
    band_high: float

    @property
    def key(self) -> tuple[str, str, str]:
        """The share that it is about: one alarm is raised for each."""
        return self.day, self.target, self.label

    def __str__(self) -> str:
        own = f"{self.share:.1%} ({self.low:.1%} to {self.high:.1%}) of {self.posts} posts"
        return f"ALARM {self.day} {self.target}: {self.label} {own}; before {self.band_low:.1%} to {self.band_high:.1%}"


@dataclass(frozen=True)
class AlarmRule:
    """When a share raises an alarm: its interval does not meet that of the days before.

    Attributes:
        days: The number of days before.
        min_posts: The number of posts that the day needs, and the days before together.
        label: The only label that is watched, if one is.

    Raises:
        OptionError: A number is below 1.
    """

    days: int = 7
    min_posts: int = 30
    label: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("--days", self.days), ("--min-posts", self.min_posts)):
            if value < 1:
                raise OptionError(f"{name} must be at least 1, not {value}")

    def find(self, counts: DailyCounts, changed: Iterable[tuple[str, date]]) -> Iterator[Alarm]:
        """Yield the alarms of targets and days."""
        labels = counts.labels if self.label is None else [self.label]
        for target, day in changed:
            for label in labels:
                share, before = counts.share(target, label, day), counts.history(target, label, day, self.days)
                if before is None or min(share.posts, before.posts) < self.min_posts:
                    continue
                (low, high), (band_low, band_high) = share.interval, before.interval
                if low > band_high or high < band_low:
                    found = (share.posts, share.value, low, high, band_low, band_high)
                    yield Alarm(day.isoformat(), target, label, *found)


class AlarmLog:
    """Passes each alarm on once, to a file of JSON lines and to an address if they are given.

    Args:
        path: The file; alarms that it has already are not raised again.
        webhook: The address.

    Raises:
        DataError: The file cannot be read.
        OptionError: The address is not one of HTTP.
    """

    def __init__(self, path: Path | None, webhook: str | None) -> None:
        self._path, self._webhook = path, webhook
        self._known: set[tuple[str, str, str]] = set()
        if webhook is not None and urlsplit(webhook).scheme not in ("http", "https"):
            raise OptionError(f"--webhook: '{webhook}' is not an address such as http://localhost:9000/alarms")
        if path is not None and path.exists():
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
                self._known = {Alarm(**json.loads(line)).key for line in lines if line.strip()}
            except (OSError, ValueError, TypeError) as error:
                raise DataError(f"--alarms: {path} is not a file of alarms: {error}") from error

    def add(self, alarm: Alarm) -> tuple[bool, str]:
        """Pass an alarm on; return whether it is new, and a fault of the address."""
        if alarm.key in self._known:
            return False, ""
        self._known.add(alarm.key)
        line = json.dumps(asdict(alarm), ensure_ascii=False)
        if self._path is not None:
            with wrap_write_errors(self._path.name, self._path.parent), self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        return True, self._post(line) if self._webhook else ""

    def _post(self, line: str) -> str:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(str(self._webhook), line.encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
                return ""
        except (URLError, OSError, ValueError) as error:
            return f"the alarm was not sent to {self._webhook}: {error}"
