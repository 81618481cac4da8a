"""The order of the tests over the workers, and which files take the time."""

from __future__ import annotations

import gc
import shlex
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

import forks

SLOW_SECONDS = 5.0
"""What a test marked ``slow`` counts for if the mark gives no seconds."""
QUICK_SECONDS = 0.1
APART = ("tests/test_docs.py",)
"""Files whose tests share nothing that is costly to make: each of their tests goes to whichever worker is free."""
FILES_SHOWN = 15


def group_of(test: str) -> str:
    """Return which tests go to one worker: those of a file, which share its fixtures."""
    file = test.partition("::")[0]
    return test if file in APART else file


class Groups(LoadScopeScheduling):
    """Gives each worker a group at a time, in the order of the collected tests."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    config.option.loadscopereorder = False
    return Groups(config, log)


@pytest.hookimpl(trylast=True)  # those that -m leaves out do not count
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort groups by their seconds, longest first, so that no worker is left alone with a long one at the end."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(group_of(item.nodeid), []).append(item)
    items[:] = [item for group in sorted(groups.values(), key=expected_seconds, reverse=True) for item in group]


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Collect no garbage while tests are collected: most of what is made then stays."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Take what is imported out of the garbage collector's sight: a million objects, half a second each time."""
    gc.collect()
    gc.freeze()
    gc.enable()


def expected_seconds(items: Iterable[pytest.Item]) -> float:
    """Return about how long these tests take, from their marks ``slow`` and ``seconds``."""
    marks = [item.get_closest_marker("slow") or item.get_closest_marker("seconds") for item in items]
    return sum(QUICK_SECONDS if mark is None else (*mark.args, SLOW_SECONDS)[0] for mark in marks)


class FileTimes:
    """Adds up the seconds of each file's tests."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = report.nodeid.partition("::")[0]
        self.seconds[file] += report.duration
        self.tests[file] += report.when == "call"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        total = sum(self.seconds.values())
        terminalreporter.write_sep("=", f"slowest files ({total:.0f} s of all workers together)")
        for file, seconds in self.seconds.most_common(FILES_SHOWN):
            terminalreporter.write_line(f"{seconds:7.1f} s  {self.tests[file]:4d} tests  {file}")


@pytest.hookimpl(trylast=True)  # the server is named by then
def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(FileTimes(), "file-times")
    is_covered = bool(config.option.cov_source)  # coverage has to see the modules imported
    if config.option.tx and not hasattr(config, "workerinput") and not is_covered:
        config.option.tx = [f"popen//python={shlex.join(forks.client_command())}"] * len(config.option.tx)
