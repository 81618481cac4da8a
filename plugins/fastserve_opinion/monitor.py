"""Scores posts as they come, counts opinions, and writes alarms, the page and the shares."""

from __future__ import annotations

import csv
import io
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_core.artifacts import find_artifact, write_text
from fastserve_core.data import InputRow
from fastserve_core.errors import DataError, OptionError, PlanError, did_you_mean
from fastserve_core.events import Event, Notice, WarningRaised
from fastserve_core.inference import Predictor
from fastserve_core.processes import set_library_environment
from fastserve_core.serving import RowRequest, answer_window, catch_signals
from fastserve_opinion.alarms import Alarm, AlarmLog, AlarmRule
from fastserve_opinion.page import write_page
from fastserve_opinion.posts import PostReader, find_zone
from fastserve_opinion.shares import DailyCounts
from fastserve_opinion.targets import ColumnTargets, EntityTargets, NamedTargets, TargetFinder

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

PAGE_SECONDS = 2.0
"""The time between two writes of the page while posts come."""


def run_monitor(options: Namespace, data: DataOptions, emit: Callable[[Event], None]) -> int:
    """Run ``fastserve monitor``; return the exit code.

    Raises:
        UserError: The model, the targets or the posts cannot be used.
    """
    request = RowRequest(options.input, data, options.format, options.follow)
    rule = AlarmRule(options.days, options.min_posts, options.label)
    log = AlarmLog(Path(options.alarms) if options.alarms else None, options.webhook)
    zone = find_zone(options.zone)
    for path in (options.page, options.shares, options.alarms):
        if path and not Path(path).absolute().parent.is_dir():
            raise DataError(f"the folder of {path} does not exist")
    set_library_environment()
    predictor = Predictor(find_artifact(Path(options.model)))
    if rule.label is not None and rule.label not in predictor.task.labels:
        raise OptionError(f"--label: no label '{rule.label}'{did_you_mean(rule.label, predictor.task.labels)}")
    reader = PostReader(predictor.task, _make_finder(options), zone, options.time, options.text_only)
    monitor = _Monitor(predictor, reader, rule, log, options, emit)
    with catch_signals(options.follow) as stop:
        _, windows = request.open(predictor.task, lambda message: emit(Notice(message)), stop)
        for window in windows:
            monitor.add(window)
    monitor.finish(Path(options.shares) if options.shares else None)
    return 0


def _make_finder(options: Namespace) -> TargetFinder:
    if options.targets:
        return NamedTargets.read(Path(options.targets))
    if options.target_column:
        return ColumnTargets(options.target_column)
    return EntityTargets(Predictor(find_artifact(Path(options.entities))))


class _Monitor:
    """The state of a monitoring: counts and alarms.

    Args:
        predictor: The model.
        reader: Makes inputs of posts.
        rule: The rule of alarms.
        log: Passes alarms on.
        options: ``page``, the file, and ``follow``: alarms are raised while posts come.
        emit: Receives warnings.
    """

    def __init__(
        self,
        predictor: Predictor,
        reader: PostReader,
        rule: AlarmRule,
        log: AlarmLog,
        options: Namespace,
        emit: Callable[[Event], None],
    ) -> None:
        self._predictor, self._reader, self._rule, self._log, self._emit = predictor, reader, rule, log, emit
        self._page, self._is_live, self._written = Path(options.page), options.follow, time.monotonic()
        self._counts = DailyCounts(predictor.task.labels)
        self._headline = predictor.task.answer_view.headline
        self._alarms: dict[tuple[str, str, str], Alarm] = {}
        self._truncated = 0

    def add(self, posts: Sequence[InputRow]) -> None:
        """Score posts, count them, raise alarms, and write the page from time to time."""
        reported = len(self._reader.faults)
        mentions = self._reader.read(posts)
        for fault in self._reader.faults[reported:]:
            self._emit(WarningRaised(f"left out: {fault}"))
        answers = answer_window(self._predictor, [mention.input for mention in mentions])
        changed: dict[tuple[str, date], None] = {}
        for mention, answer in zip(mentions, answers, strict=True):
            label = answer.get(self._headline)
            if label not in self._predictor.task.labels:
                raise PlanError(f"a model that gives each text one label is needed, not {self._predictor.task.name}")
            self._counts.add(mention.target, mention.day, label)
            self._truncated += "truncated" in answer
            changed[mention.target, mention.day] = None
        if self._is_live:
            self._raise(changed)
            if time.monotonic() - self._written > PAGE_SECONDS:
                self._write_page()

    def _raise(self, changed: Iterable[tuple[str, date]]) -> None:
        """Raise the alarms of targets and days."""
        for alarm in self._rule.find(self._counts, changed):
            is_new, fault = self._log.add(alarm)
            self._alarms[alarm.key] = alarm
            if is_new:
                print(alarm, flush=True)
            if fault:
                self._emit(WarningRaised(fault))

    def finish(self, shares: Path | None) -> None:
        """Write the page and the shares, and print the last day of each target."""
        reader = self._reader
        if reader.posts == reader.left_out:
            raise DataError(f"none of the {reader.posts} posts can be used")
        if not self._is_live:  # on all posts of a day, in whatever order they are
            targets = self._counts.targets()
            self._raise((target, day) for target in targets for day in self._counts.days(target))
        self._write_page()
        if self._truncated:
            self._emit(WarningRaised(f"{self._truncated} posts were truncated to the model's maximum length"))
        if shares is not None:
            write_text(shares, self._format_shares())
        for target in self._counts.targets():
            day = self._counts.days(target)[-1]
            found = [self._counts.share(target, label, day) for label in self._counts.labels]
            cells = ", ".join(
                f"{label} {share.value:.1%}" for label, share in zip(self._counts.labels, found, strict=True)
            )
            print(f"{day} {target}: {found[0].posts} posts, {cells}")
        faults = f", {reader.left_out} left out" if reader.left_out else ""
        print(f"{reader.posts} posts{faults}, {reader.without_target} without a target, {len(self._alarms)} alarms")
        print(f"page: {self._page}")

    def _write_page(self) -> None:
        reader = self._reader
        alarms = sorted(self._alarms.values(), key=lambda alarm: alarm.key)
        write_page(self._page, self._counts, self._rule, alarms, reader.posts, reader.left_out)
        self._written = time.monotonic()

    def _format_shares(self) -> str:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["day", "target", "label", "posts", "share", "low", "high"])
        for target in self._counts.targets():
            for day in self._counts.days(target):
                for label in self._counts.labels:
                    share = self._counts.share(target, label, day)
                    figures = (share.value, *share.interval)
                    table.writerow([day, target, label, share.posts, *(f"{figure:.4f}" for figure in figures)])
        return text.getvalue()
