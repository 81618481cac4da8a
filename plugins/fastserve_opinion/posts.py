"""Posts with a time: the day of each, and the inputs for each target that it mentions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from fastserve_core.data import InputRow
from fastserve_core.errors import DataError, OptionError, did_you_mean
from fastserve_core.tasks import Task, plain_value
from fastserve_opinion.targets import TargetFinder

MAX_FAULTS = 5
"""The number of posts that are reported one by one."""
USUAL_TIMES = (
    "time", "date", "created_at", "created", "timestamp", "published", "published_at", "posted_at", "datetime", "day",
    "时间", "日期", "发布时间",
)  # fmt: skip
FORMATS = ("%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%a %b %d %H:%M:%S %z %Y", "%Y年%m月%d日")
MIN_SECONDS = 1e8
"""A smaller number of seconds would be before 1974: it may be a year."""
MAX_SECONDS = 1e11
"""A larger number of seconds would be later than the year 5000: it counts milliseconds."""


def find_zone(name: str) -> ZoneInfo:
    """Return a time zone.

    Raises:
        OptionError: There is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise OptionError(f"--zone: no time zone '{name}'; examples: UTC, Europe/Berlin, Asia/Shanghai") from error


def read_day(value: Any, zone: ZoneInfo) -> date:
    """Return the day of a time in a zone; a time without a zone is one of that zone.

    Args:
        value: ISO 8601, a usual format of social media and mails, seconds or milliseconds since 1970, or a datetime.
        zone: The zone.

    Raises:
        ValueError: It is not a time.
    """
    value = plain_value(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if isinstance(value, str):
        value = _parse(value.strip())
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) >= MIN_SECONDS:
        value = datetime.fromtimestamp(value / 1000 if abs(value) > MAX_SECONDS else value, UTC)
    if not isinstance(value, datetime):
        raise ValueError(f"is {value!r}, not a time: write it as 2026-03-01T12:00:00")
    return value.astimezone(zone).date() if value.tzinfo else value.date()


def _parse(text: str) -> float | datetime | str:
    readers: list[Callable[[str], float | datetime]] = [float, datetime.fromisoformat, parsedate_to_datetime]
    if len(text) == 8 and text.isdecimal():  # 20260301
        readers = [datetime.fromisoformat]
    for pattern in FORMATS:
        readers.append(partial(_parse_format, pattern))
    for read in readers:
        try:
            return read(text)
        except (ValueError, TypeError, IndexError):
            continue
    return text


def _parse_format(pattern: str, text: str) -> datetime:
    return datetime.strptime(text, pattern)


@dataclass(frozen=True)
class Mention:
    """A post on one target.

    Attributes:
        day: The day of the post.
        target: The target.
        input: The model's input.
    """

    day: date
    target: str
    input: InputRow


class PostReader:
    """Makes the model's inputs of posts.

    Args:
        task: The model's task.
        targets: Finds the targets.
        zone: The zone of days.
        time_column: The column with the time; by default the one with a usual name.
        text_only: Whether the model reads a text without its target.

    Attributes:
        faults: The first reasons why posts were left out.
        left_out: The number of these posts.
        posts: The number of all posts.
        without_target: The number of posts that mention no target.
    """

    def __init__(
        self, task: Task, targets: TargetFinder, zone: ZoneInfo, time_column: str | None, text_only: bool
    ) -> None:
        names = {column.name for column in task.columns}
        if "text" not in names or not (text_only or "text_pair" in names):
            raise OptionError(f"a model for texts with a second one is needed; the task {task.name} has other columns")
        self._task, self._targets, self._zone, self._text_only = task, targets, zone, text_only
        self._time_column = time_column
        self.faults: list[str] = []
        self.posts = self.left_out = self.without_target = 0

    def read(self, window: Sequence[InputRow]) -> list[Mention]:
        """Return the mentions in a window of posts."""
        mentions = []
        for post, targets in zip(window, self._targets.find(window), strict=True):
            self.posts += 1
            try:
                if post.row is None:
                    raise DataError(post.fault)
                day = self._read_day(post)
                self.without_target += not targets
                mentions += [Mention(day, target, self._make_input(post, target)) for target in targets]
            except DataError as error:
                self.left_out += 1
                self.faults = [*self.faults, f"{post.where}: {error}"][:MAX_FAULTS]
        return mentions

    def _read_day(self, post: InputRow) -> date:
        if self._time_column is None:
            names = [name for name in post.values if name.strip().casefold() in USUAL_TIMES]
            if len(names) != 1:
                found = " and ".join(f"'{name}'" for name in names) or "none of the usual names"
                raise OptionError(f"{post.where}: the column with the time is not clear ({found}): --time COLUMN")
            self._time_column = names[0]
        if self._time_column not in post.values:
            raise DataError(f"no column '{self._time_column}'{did_you_mean(self._time_column, post.values)}")
        try:
            return read_day(post.values[self._time_column], self._zone)
        except (ValueError, OverflowError, OSError) as error:
            raise DataError(f"'{self._time_column}' {error}") from error

    def _make_input(self, post: InputRow, target: str) -> InputRow:
        row = {"text": (post.row or {})["text"]}
        return InputRow(post.where, {}, self._task.read_input(row if self._text_only else {**row, "text_pair": target}))
