"""Progress: plain lines in a file, a bar on a terminal, and a run that goes on when nobody reads."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import OptionError
from fastserve_core.events import Event, Progress, RunFinished, StageFinished, StageStarted, Step, WarningRaised
from fastserve_observers import progress, screens
from fastserve_observers.progress import ProgressOptions
from fastserve_observers.rich_screen import LiveScreen, Terminal
from fastserve_observers.screens import PlainScreen, Screen, open_screen

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def step(number: int) -> Step:
    return Step(number, 1000, number / 500, 0.5, 1e-5, 812.3, 24_120.0, 250.0)


def play(screen: Screen, *events: Event) -> None:
    observer = progress.Progress(ProgressOptions(), screen)
    for event in events:
        observer.observe(event)


def plain(*events: Event) -> str:
    stream = StringIO()
    play(PlainScreen(stream, 10.0), *events)
    return stream.getvalue()


def live(*events: Event, width: int = 100) -> str:
    stream = StringIO()
    console = Terminal(
        file=stream, force_terminal=True, width=width, color_system="standard", _environ={"TERM": "xterm"}
    )
    play(LiveScreen(console), *events)
    return stream.getvalue()


def bare(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_plain_output_tells_the_whole_run_without_control_characters(told: list[Event], done: RunFinished) -> None:
    (done.folder / "report.html").touch()
    text = plain(*told, done)
    assert not CONTROL.search(text)
    for expected in (
        "to train: 8,530 rows, 1.91 M tokens (0.0% unknown), 22.7 M parameters; "
        "1.21 GB of memory needed of 14.8 GB available; about",
        "trial 1/6: score 0.861 (best so far), lr=5e-05, batch_size=32, 40 s",
        "trial 3/6: failed, lr=0.00091",
        "step 261: validation accuracy 84.0 %",
        "train torch_ddp: done in 7 min 11 s; accuracy 89.0 % on validation, 88.4 % on test, 12.3 ms, 214/s, 90.9 MB",
        "compress pruner: rejected in 61 s: quality drop 0.0425",
        "warning: the calibration rows are few",
        "is 3.9 times smaller and 2.9 times faster than the trained model, 0.2 points less accurate on the test split.",
        f"serve: fastserve serve {done.record['best']}",
        f'predict: fastserve predict {done.record["best"]} "text"',
        f"report: {done.folder}/report.html",
    ):
        assert expected in text


def test_the_summary_has_a_row_for_each_stage(done: RunFinished) -> None:
    rows = [" ".join(line.split()) for line in plain(done).splitlines()]
    assert "compress neural_compressor done 88.1 ± 1.0 4.21 802 23.3 3.9x 2.9x" in rows
    assert "tune nevergrad done - - - - - -" in rows


def test_no_report_is_named_that_does_not_exist(done: RunFinished) -> None:
    assert "report:" not in plain(done)


def test_plain_steps_come_at_most_every_so_many_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(screens, "monotonic", lambda: now)
    stream = StringIO()
    observer = progress.Progress(ProgressOptions(), PlainScreen(stream, 10.0))
    for number in range(1, 251):
        now = number / 10
        observer.observe(step(number))
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
        "step 1/1000",
        "step 101/1000",
        "step 201/1000",
    ]


@given(st.text())
def test_messages_cannot_control_the_terminal(message: str) -> None:
    assert not CONTROL.search(
        plain(WarningRaised(message), StageFinished("train", message, "done", 1.0, reason=message))
    )


def test_a_stage_shows_the_main_score_as_its_task_declares_it() -> None:
    measures = {"quality_validation": {"hits": 0.5, "misses": 0.25}, "quality": {"hits": 0.75, "misses": 0.5}}
    metrics = {"misses": {"higher_is_better": False, "unit": "%"}, "hits": {"unit": "%"}}
    text = plain(StageFinished("train", "x", "done", 1.0, measures, metrics=metrics))
    assert "misses 25.0 % on validation, 50.0 % on test" in text


def test_a_stream_of_few_characters_gets_question_marks(tmp_path: Path, done: RunFinished) -> None:
    with (tmp_path / "out.txt").open("w", encoding="ascii") as stream:
        play(PlainScreen(stream, 1.0), done)
    assert "88.1 ? 1.0 " in (tmp_path / "out.txt").read_text()


def test_a_terminal_shows_a_bar_that_is_gone_when_the_stage_is_done() -> None:
    begin = [StageStarted("train", "torch_ddp"), step(400)]
    text = live(*begin, StageFinished("train", "torch_ddp", "done", 3.0))
    for expected in ("== train torch_ddp ==", "train step", "━", "400/1000, 4 min 10 s left", "epoch 0.80, loss 0.5"):
        assert expected in bare(text)
    assert "\x1b[?25l" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")
    assert bare(text).rstrip().endswith("train torch_ddp: done in 3.0 s")


def test_a_terminal_shows_the_whole_run(told: list[Event], done: RunFinished) -> None:
    text = live(*told, done, width=80)
    assert "\x1b[33mwarning: the calibration rows are few" in text
    assert "measuring" in text
    assert f"fastserve serve {done.record['best']}\n" in bare(text)
    assert re.search(r"neural_compressor +done +88\.1 ± 1\.0 +4\.21 +802 +23\.3 +3\.9x +2\.9x", bare(text))


def test_a_terminal_is_not_steered_by_a_message() -> None:
    assert "\x1b[2J" not in live(WarningRaised("clear \x1b[2J the screen [red]"))
    assert "[red]" in live(WarningRaised("clear \x1b[2J the screen [red]"))


@pytest.mark.parametrize("shown", [plain, live])
def test_a_step_reports_both_rates(shown: Callable[..., str]) -> None:
    text = bare(shown(StageStarted("train", "torch_ddp"), step(400)))
    assert "812 samples/s, 24.1 k tokens/s" in text


def test_the_next_bar_takes_the_place_of_the_one_before() -> None:
    screen = LiveScreen(Terminal(file=StringIO(), force_terminal=True, width=80))
    play(screen, step(1000), Progress("measuring", 1, 3), Progress("measuring", 3, 3))
    screen.end_bar()
    screen.end_bar()


class Stream(StringIO):
    encoding: Any = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("term", "encoding", "kind"), [
    ("xterm", "utf-8", LiveScreen), ("dumb", "utf-8", PlainScreen), ("xterm", "ascii", PlainScreen),
])  # fmt: skip
def test_the_screen_fits_the_output(monkeypatch: pytest.MonkeyPatch, term: str, encoding: str, kind: type) -> None:
    stream = Stream()
    monkeypatch.setattr(Stream, "encoding", encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", term)
    assert isinstance(open_screen(1.0), kind)


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress.Progress(ProgressOptions()).observe(WarningRaised("few rows"))
    assert capsys.readouterr().out == "warning: few rows\n"


class Gone(StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("terminal", [False, True])
def test_a_reader_that_went_away_does_not_end_the_run(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, told: list[Event], done: RunFinished
) -> None:
    monkeypatch.setattr(sys, "stdout", StringIO())
    play(LiveScreen(Terminal(file=Gone(), force_terminal=True)) if terminal else PlainScreen(Gone(), 1.0), *told, done)


def test_a_closed_output_is_a_reader_that_went_away() -> None:
    stream = StringIO()
    screen = PlainScreen(stream, 1.0)
    stream.close()
    with pytest.raises(BrokenPipeError):
        screen.print_line("hello")


def test_a_closed_pipe_leaves_the_exit_code_alone() -> None:
    script = (
        "from fastserve_core.events import WarningRaised\n"
        "from fastserve_observers.progress import Progress, ProgressOptions\n"
        "import sys; sys.stdin.read()\n"
        "observer = Progress(ProgressOptions())\n"
        "for _ in range(100): observer.observe(WarningRaised('x' * 1000))\n"
        "print('more')\n"
        "assert 'rich' not in sys.modules"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.close()
    child.stdout = None
    assert child.communicate(b"")[1] == b""
    assert child.returncode == 0


@pytest.mark.parametrize("every_s", [0.0, -1.0, float("nan")])
def test_an_interval_that_is_none_is_refused(every_s: float) -> None:
    with pytest.raises(OptionError, match=r"observe\.progress\.every_s"):
        ProgressOptions(every_s)
