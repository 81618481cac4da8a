"""The report: complete, of one file, readable, and safe whatever a label says."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from fastserve_core.errors import StoreError
from fastserve_core.events import Event, Metric, RunFinished, StageStarted, Step
from fastserve_core.plugins import API_VERSION, Registry
from fastserve_observers.history import History
from fastserve_observers.pareto_plot import draw_pareto_front
from fastserve_observers.report import Report, ReportOptions
from fastserve_observers.report_context import make_context
from fastserve_observers.run_summary import RunSummary

VOID = {"meta", "link", "br", "hr", "img", "input"}
CONF = Path(__file__).parents[3] / "conf" / "plugin"


class Page(HTMLParser):
    """Checks that tags are balanced; keeps what is loaded and what is said."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.loaded: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "xlink:href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words += data


def written(folder: Path, record: dict[str, Any], *told: Event) -> tuple[str, str]:
    """report.html and report.md of a run."""
    report = Report(ReportOptions())
    for event in (*told, RunFinished(folder, record)):
        report.observe(event)
    return (folder / "report.html").read_text(), (folder / "report.md").read_text()


SENTENCE = (
    "The model made by neural_compressor is 3.9 times smaller and 2.9 times faster than the trained model, "
    "0.2 points less accurate on the test split."
)


def test_both_forms_tell_the_whole_run(tmp_path: Path, record: dict[str, Any], told: list[Event]) -> None:
    record["data"]["notes"] = ["column 'review' is read as text (data.columns.text)"]
    html, markdown = written(tmp_path, record, *told)
    page = Page(html)
    for words in (page.words, markdown):
        for expected in (
            "note on the data", "column 'review' is read as text",
            SENTENCE, "within the sampling error of the test split (± 1.0 points with 1,066 rows)",
            "8,530", "negative, positive", "9f2c" * 16, "88.1 ± 1.0 %", "4.21 ms", "802/s", "23.3 MB", "3.9x", "2.9x",
            "quality drop 0.0425", "lr=8.7e-05, batch_size=16", "failed", "weight_decay", "static",
            f"fastserve serve {record['best']}", f'fastserve predict {record["best"]} "text"',
            "fastserve +experiment=movie_reviews train.torch_ddp.epochs=3", "the calibration rows are few",
            record["stages"][1]["digest"],
        ):  # fmt: skip
            assert expected in words
    assert page.seen.count("svg") == 5  # the front, the trials, their options, the loss, the validation metrics
    assert "<svg" not in markdown


def test_the_page_needs_nothing_but_itself(tmp_path: Path, record: dict[str, Any], told: list[Event]) -> None:
    html, _ = written(tmp_path, record, *told)
    assert Page(html).loaded == ["data:,"]
    assert not re.search(r"https?:|//|@import|url\(|<script", html.replace(str(tmp_path), ""))
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_a_reused_run_is_reported_from_its_record(tmp_path: Path, record: dict[str, Any]) -> None:
    record["stages"] = [one | {"status": "reused"} for one in record["stages"][:3]]
    html, markdown = written(tmp_path, record)
    for words in (Page(html).words, markdown):
        assert SENTENCE in words
        assert "train.torch_ddp.lr=8.7e-05" in words
        assert "reused" in words
    assert "its curves are in the report of the original run" in html


def test_texts_of_the_user_are_escaped(tmp_path: Path, record: dict[str, Any]) -> None:
    record["data"]["labels"] = ["<b>bold</b>", "a|b", "</td><script>alert(1)</script>"]
    record["stages"][2] |= {"plugin": "<i>&", "reason": "`<img src=x>`"}
    html, markdown = written(tmp_path, record)
    page = Page(html)
    assert "<b>bold</b>, a|b, </td><script>" in page.words
    assert "<i>&" in page.words
    assert not {"script", "img", "i"} & set(page.seen)
    assert "&lt;b>bold" in markdown
    assert r"a\|b" in markdown
    assert "<i>" not in markdown
    assert "<img" not in markdown


def test_rows_that_the_model_doubts_are_listed(tmp_path: Path, record: dict[str, Any]) -> None:
    assert "doubts" not in "".join(written(tmp_path, record))
    row = {"split": "test", "row": 3, "label": "good", "answer": "<b>bad</b>", "score": 0.98765}
    record["doubted_rows"] = [
        {**row, "input": {"text": "it was | dreadful", "text_pair": "a film"}},
        {**row, "input": {"text": "x" * 5000}},
    ]
    html, markdown = written(tmp_path, record)
    assert "<td>&lt;b&gt;bad&lt;/b&gt; (0.988)</td><td>it was | dreadful | a film</td>" in html
    assert "| test | good | &lt;b>bad&lt;/b> (0.988) | it was \\| dreadful \\| a film |" in markdown
    assert "x" * 400 not in html


def test_answers_before_and_after_stand_side_by_side(tmp_path: Path, record: dict[str, Any]) -> None:
    assert "before and after" not in "".join(written(tmp_path, record))
    record["samples"] = [
        {"input": "name | one", "expected": "red\n1", "answers": {"before": "<i>", "train torch_ddp": "红 😀"}},
        {"input": "another", "expected": "y" * 900, "answers": {}},
    ]
    html, markdown = written(tmp_path, record)
    assert "<td>before</td><td>&lt;i&gt;</td>" in html
    assert "<td>name | one</td><td>expected</td>" in html
    assert "y" * 400 not in html
    assert "|  | train torch_ddp | 红 😀 |" in markdown
    assert "| name \\| one | expected | red" in markdown


def test_scores_where_lower_is_better(tmp_path: Path, language: dict[str, Any]) -> None:
    html, markdown = written(tmp_path, language)
    assert "with a perplexity of 25.3 instead of 24.83 (worse) on the test split" in markdown
    assert "±" not in markdown
    front = html[html.index('<svg class="plot"') :]
    heights = [float(found) for found in re.findall(r'<circle class="bubble \w+" cx="[\d.]+" cy="([\d.]+)"', front)]
    assert heights[0] < heights[1]  # the better, lower perplexity is drawn higher


def test_tagging_is_judged_by_f1_without_a_sampling_error(tmp_path: Path, tagging: dict[str, Any]) -> None:
    _, markdown = written(tmp_path, tagging)
    assert "0.5 points lower in f1 on the test split" in markdown
    assert "| 89.7 % |" in markdown
    assert "±" not in markdown


@pytest.mark.parametrize("data", [{}, {"rows": {"train": 0, "validation": 0, "test": 0}, "fingerprint": ""}])
def test_a_run_without_stages(tmp_path: Path, data: dict[str, Any]) -> None:
    record = {
        "schema": 1,
        "status": "done",
        "task": "text_classification",
        "seed": 0,
        "metrics": {},
        "data": data,
        "stages": [],
    }
    html, markdown = written(tmp_path, record)
    assert "The run made no model." in Page(html).words
    assert "No stage was run." in markdown
    assert "fastserve serve" not in html


def test_when_nothing_was_better_the_trained_model_is_the_one(tmp_path: Path, record: dict[str, Any]) -> None:
    record["stages"] = [record["stages"][1], record["stages"][3]]
    record["best"] = record["stages"][0]["artifact"]
    _, markdown = written(tmp_path, record)
    assert "The trained model is the best model: accuracy 88.4 ± 1.0 % on the test split, 12.3 ms" in markdown
    assert "1 compressed candidate was rejected." in markdown


def test_stages_that_were_not_measured(tmp_path: Path, record: dict[str, Any]) -> None:
    record["stages"] = [one | {"measures": {}} for one in record["stages"]]
    html, _ = written(tmp_path, record)
    assert "it was not measured" in Page(html).words
    assert "<svg" not in html


def test_a_long_training_makes_a_small_page(tmp_path: Path, record: dict[str, Any]) -> None:
    steps = [Step(step, 50_000, step / 5000, 1 / step, 1e-5, 1.0, 1.0, 1.0) for step in range(1, 50_001)]
    diverged = Step(50_001, 50_001, 10.0, float("nan"), 1e-5, 1.0, 1.0, 1.0)
    html, _ = written(tmp_path, record, StageStarted("train", "torch_ddp"), *steps, diverged)
    (points,) = re.findall(r'<polyline class="line s0" points="([^"]*)"', html)
    assert 200 < len(points.split()) <= 700
    assert "nan" not in points


def test_a_validation_loss_is_drawn_with_the_training_loss(tmp_path: Path, record: dict[str, Any]) -> None:
    told = [Step(step, 100, 1.0, 3.0, 1e-5, 1.0, 1.0, 1.0) for step in (10, 20, 30)]
    metrics = [Metric(name, value, step) for step in (10, 30) for name, value in (("loss", 3.1), ("perplexity", 22.2))]
    html, _ = written(tmp_path, record, StageStarted("train", "torch_ddp"), *told, *metrics)
    assert Page(html).seen.count("svg") == 3
    assert "validation loss" in html
    assert "validation perplexity" in html


def test_a_disk_that_refuses_is_reported_in_one_message(tmp_path: Path, record: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match=r"report\.html"):
        Report(ReportOptions()).observe(RunFinished(tmp_path / "gone", record))


def test_the_registry_takes_both_with_their_configs() -> None:
    for name in ("progress", "report"):
        text = (CONF / f"{name}.yaml").read_text()
        assert text.startswith(f"# @package observe.{name}\n")
        active = Registry().activate("observe", name, DictConfig(OmegaConf.create(text)))
        assert active.plugin.api_version == API_VERSION


def test_importing_the_plugins_is_light() -> None:
    script = (
        "import sys, fastserve_observers.progress, fastserve_observers.report\n"
        "heavy = {'rich', 'jinja2', 'omegaconf', 'torch', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_recipes_trials_are_small_marks_in_the_plot_and_lines_of_the_table(record: dict[str, Any]) -> None:
    kept = dict(record["stages"][1]["measures"])
    kept |= {"quality_validation": {"accuracy": 0.88, "macro_f1": 0.88}, "accepted": False, "refused": "too slow"}
    good = {"number": 0, "options": {"compress.prune.head_ratio": 0.5}, "score": 1.0, "seconds": 3.0, "error": ""}
    bad = good | {"number": 1, "score": None, "error": "no such layer"}
    record["stages"][0]["trials"] = [good | {"measures": kept}, bad]
    drawn = draw_pareto_front(RunSummary(record))
    assert drawn.count("bubble trial") == 1
    assert "on the validation split" in drawn
    shown = [one["figures"] for one in make_context(record, Path("run"), History(), datetime(2026, 1, 1))["trials"]]
    assert shown[0].endswith("rejected by the gate: too slow")
    assert shown[1] == "no such layer"
