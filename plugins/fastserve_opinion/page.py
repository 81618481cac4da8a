"""The page of opinions by day: one file that needs no network and no scripts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fastserve_core.artifacts import write_text
from fastserve_opinion import chart
from fastserve_opinion.alarms import Alarm, AlarmRule
from fastserve_opinion.shares import DailyCounts

MAX_TARGETS = 20
"""The number of targets that are drawn, those with most posts."""
MAX_ALARMS = 20


def write_page(
    path: Path, counts: DailyCounts, rule: AlarmRule, alarms: Sequence[Alarm], posts: int, left_out: int
) -> None:
    """Write the page, atomically.

    Args:
        path: The file.
        counts: The counts.
        rule: The rule of alarms.
        alarms: The alarms so far.
        posts: The number of posts.
        left_out: The number of posts that could not be used.

    Raises:
        StoreError: The file cannot be written.
    """
    targets = counts.targets()[:MAX_TARGETS]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    values = {
        "charts": [_draw(counts, target, rule, alarms) for target in targets],
        "others": len(counts.targets()) - len(targets),
        "alarms": list(reversed(alarms))[:MAX_ALARMS],
        "posts": posts,
        "left_out": left_out,
        "days": rule.days,
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "width": chart.WIDTH,
        "height": chart.HEIGHT,
        "left": chart.LEFT,
        "right": chart.RIGHT,
    }
    write_text(path, environment.get_template("page.html.j2").render(values))


def _draw(
    counts: DailyCounts, target: str, rule: AlarmRule, alarms: Sequence[Alarm]
) -> tuple[str, chart.Chart, dict[str, Any]]:
    """Return a target, its chart, and the shares of its last day."""
    own = [alarm for alarm in alarms if alarm.target == target]
    last = counts.days(target)[-1]
    shares = [counts.share(target, label, last) for label in counts.labels]
    cells = [f"{share.value:.1%} ({share.interval[0]:.1%} to {share.interval[1]:.1%})" for share in shares]
    table = {"day": last, "cells": cells, "posts": shares[0].posts}
    return target, chart.draw_chart(counts, target, rule, own), table
