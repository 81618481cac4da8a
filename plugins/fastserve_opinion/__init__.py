"""Opinion monitoring: the sentiment of posts towards targets, by day, with alarms and a page."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from fastserve_core.events import Event
from fastserve_core.plugins import Command

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions


class Monitor(Command):
    """The command ``fastserve monitor``."""

    help: ClassVar[str] = "score posts on targets, count opinions by day, and raise alarms"

    @override
    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", metavar="RUN_OR_ARTIFACT", help="a model that labels texts")
        parser.add_argument(
            "--input", action="append", required=True, metavar="FILE", help="posts; - is standard input"
        )
        parser.add_argument("--follow", action="store_true", help="wait for posts that are appended")
        parser.add_argument("--format", choices=("csv", "tsv", "jsonl"), help="that of standard input")
        targets = parser.add_mutually_exclusive_group(required=True)
        targets.add_argument("--targets", metavar="FILE", help="a target a line: its name, then its other names")
        targets.add_argument("--target-column", metavar="COLUMN", help="the posts' column with the target")
        targets.add_argument("--entities", metavar="RUN", help="a model that finds entities, which are the targets")
        parser.add_argument("--text-only", action="store_true", help="the model reads texts, not texts with a target")
        parser.add_argument("--time", metavar="COLUMN", help="the posts' column with the time (default: a usual name)")
        parser.add_argument("--zone", default="UTC", help="the time zone of days, as Asia/Shanghai (default: UTC)")
        parser.add_argument("--label", help="raise alarms for the share of this label (default: of each)")
        parser.add_argument("--days", type=int, default=7, help="the days before, which make the band (default: 7)")
        parser.add_argument("--min-posts", type=int, default=30, help="posts that a share needs (default: 30)")
        parser.add_argument("--page", default="opinion.html", metavar="FILE", help="the page (default: opinion.html)")
        parser.add_argument("--shares", metavar="FILE", help="also write all shares as CSV")
        parser.add_argument("--alarms", metavar="FILE", help="also append alarms to a file of JSON lines")
        parser.add_argument("--webhook", metavar="URL", help="also post alarms to an address")

    @override
    def run(self, options: Namespace, data: DataOptions, emit: Callable[[Event], None]) -> int:
        from fastserve_opinion.monitor import run_monitor

        return run_monitor(options, data, emit)
