"""Intervals of shares, and the alarms that they raise."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import DataError, OptionError
from fastserve_opinion.alarms import Alarm, AlarmLog, AlarmRule
from fastserve_opinion.shares import DailyCounts, Share

START = date(2026, 3, 1)


@pytest.mark.parametrize(
    ("count", "posts", "interval"), [(10, 20, (0.2993, 0.7007)), (0, 10, (0.0, 0.2775)), (81, 263, (0.2553, 0.3662))]
)
def test_the_interval_is_wilsons(count: int, posts: int, interval: tuple[float, float]) -> None:
    """The last example is that of Newcombe 1998."""
    assert Share(count, posts).interval == pytest.approx(interval, abs=1e-4)


@given(st.integers(1, 5000).flatmap(lambda posts: st.tuples(st.integers(0, posts), st.just(posts))))
def test_an_interval_holds_its_share_and_shrinks(given_counts: tuple[int, int]) -> None:
    count, posts = given_counts
    low, high = Share(count, posts).interval
    assert 0 <= low <= count / posts <= high <= 1
    wider = Share(4 * count, 4 * posts).interval
    assert wider[1] - wider[0] < high - low


def count_days(negatives: list[int], posts: int = 100) -> DailyCounts:
    counts = DailyCounts(["negative", "positive"])
    for number, negative in enumerate(negatives):
        for one in range(posts):
            counts.add("Acme", START + timedelta(days=number), "negative" if one < negative else "positive")
    return counts


def find(counts: DailyCounts, rule: AlarmRule) -> list[Alarm]:
    return list(rule.find(counts, [("Acme", day) for day in counts.days("Acme")]))


def test_a_share_that_leaves_the_band_of_the_days_before_raises_an_alarm() -> None:
    (alarm,) = find(count_days([30, 33, 28, 60, 45]), AlarmRule(days=3, label="negative"))
    assert (alarm.day, alarm.label, alarm.posts, alarm.share) == ("2026-03-04", "negative", 100, 0.6)
    assert alarm.band_high < alarm.low
    assert "ALARM 2026-03-04 Acme: negative 60.0%" in str(alarm)
    both = find(count_days([30, 33, 28, 60]), AlarmRule(days=3))
    assert {one.label for one in both} == {"negative", "positive"}


@pytest.mark.parametrize(
    ("negatives", "posts", "rule"),
    [
        ([30, 33, 28, 35], 100, AlarmRule()),  # within the band
        ([3, 3, 3, 7], 10, AlarmRule()),  # too few posts
        ([60], 100, AlarmRule()),  # nothing before
        ([30, 60], 100, AlarmRule(min_posts=101)),
    ],
)
def test_other_shares_raise_none(negatives: list[int], posts: int, rule: AlarmRule) -> None:
    assert find(count_days(negatives, posts), rule) == []


def test_only_the_days_before_count() -> None:
    counts = count_days([90, 30, 30])
    assert counts.history("Acme", "negative", START + timedelta(days=2), 1) == Share(30, 100)
    assert counts.history("Acme", "negative", START + timedelta(days=9), 6) is None
    assert counts.history("Acme", "negative", START + timedelta(days=9), 8) == Share(60, 200)


@pytest.mark.parametrize("options", [{"days": 0}, {"min_posts": 0}])
def test_numbers_below_one_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="must be at least 1, not 0"):
        AlarmRule(**options)


# -- passing alarms on -------------------------------------------------------------------------------


ALARM = Alarm("2026-03-04", "Acme", "negative", 100, 0.6, 0.5, 0.7, 0.2, 0.4)


@pytest.fixture
def received() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server on loopback, and the bodies that it receives."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(500 if len(bodies) > 1 else 204)
            self.end_headers()

        def log_message(self, *rest: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/alarms", bodies
    server.shutdown()
    server.server_close()
    thread.join()


def test_each_alarm_is_passed_on_once_even_by_a_later_run(tmp_path: Path, received: tuple[str, list[bytes]]) -> None:
    url, bodies = received
    path = tmp_path / "alarms.jsonl"
    for expected in (True, False):
        log = AlarmLog(path, url)
        assert log.add(ALARM) == (expected, "")
        assert log.add(ALARM) == (False, "")
    assert [json.loads(body)["target"] for body in bodies] == ["Acme"]
    assert [json.loads(line)["day"] for line in path.read_text().splitlines()] == ["2026-03-04"]


def test_an_address_that_fails_is_reported(received: tuple[str, list[bytes]]) -> None:
    url, bodies = received
    bodies.append(b"")
    is_new, fault = AlarmLog(None, url).add(ALARM)
    assert (is_new, "HTTP Error 500" in fault) == (True, True)
    assert "was not sent to" in AlarmLog(None, "http://127.0.0.1:9/").add(ALARM)[1]


def test_a_file_or_address_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="is not a file of alarms"):
        AlarmLog(tmp_path / "x.jsonl", None)
    with pytest.raises(OptionError, match="'file:///etc/passwd' is not an address"):
        AlarmLog(None, "file:///etc/passwd")
