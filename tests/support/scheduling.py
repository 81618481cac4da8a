"""The order of the tests over the workers, and which rooms take the time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

SLOW_SECONDS = 5.0
"""What a test marked ``slow`` counts for if the mark gives no seconds."""
QUICK_SECONDS = 0.1
ROOMS_SHOWN = 15


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Rooms(), "rooms")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort groups by their seconds, longest first, so that no worker is left alone with a long one at the end.

    A group is a file, whose tests share fixtures and so a worker; a file marked ``apart`` has a group for each test.
    """
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        name = item.nodeid if item.get_closest_marker("apart") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(name))
        groups.setdefault(name, []).append(item)
    items[:] = [item for group in sorted(groups.values(), key=expected_seconds, reverse=True) for item in group]


def expected_seconds(items: Iterable[pytest.Item]) -> float:
    """Return about how long these tests take, from their ``slow`` marks."""
    marks = [item.get_closest_marker("slow") for item in items]
    return sum(QUICK_SECONDS if mark is None else (*mark.args, SLOW_SECONDS)[0] for mark in marks)


class Rooms:
    """Adds up the seconds of the tests by the folder or file that a reader would look into."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        room = report.nodeid.partition("::")[0]
        self.seconds[room] += report.duration
        self.tests[room] += report.when == "call"

    def lines(self) -> Iterator[str]:
        for room, seconds in self.seconds.most_common(ROOMS_SHOWN):
            yield f"{seconds:7.1f} s  {self.tests[room]:4d} tests  {room}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_sep("=", f"slowest rooms, of {sum(self.seconds.values()):.0f} seconds of a worker")
        for line in self.lines():
            terminalreporter.write_line(line)
