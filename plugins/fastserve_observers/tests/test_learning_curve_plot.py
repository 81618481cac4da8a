"""The learning curve in the report: its sentence in both forms, its plot only with a forecast."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fastserve_observers.history import History
from fastserve_observers.report import render
from fastserve_observers.report_context import make_context

CURVE: dict[str, Any] = {
    "metric": "accuracy",
    "points": [{"rows": 50, "score": 0.5}, {"rows": 100, "score": 0.62}, {"rows": 200, "score": 0.7}],
    "forecast": {"rows": 400, "score": 0.76, "low": 0.71, "high": 0.81},
    "sentence": "With 400 training rows, accuracy is expected to be 76.0 %.",
}


def pages(record: dict[str, Any], curve: dict[str, Any]) -> tuple[str, str]:
    context = make_context({**record, "learning_curve": curve}, Path("run"), History(), datetime(2026, 1, 1))
    return render("report.html", context), render("report.md", context)


def test_a_forecast_has_a_sentence_and_a_plot(record: dict[str, Any]) -> None:
    html, markdown = pages(record, CURVE)
    assert CURVE["sentence"] in html and CURVE["sentence"] in markdown
    plot = html[html.index('aria-label="accuracy over the training rows"') :].partition("</svg>")[0]
    assert plot.count("<circle") == 4 and plot.count("whisker") == 1 and "70 %" in plot


@pytest.mark.parametrize("forecast", [None, {}])
def test_without_a_forecast_the_sentence_stands_alone(record: dict[str, Any], forecast: Any) -> None:
    html, _ = pages(record, {**CURVE, "forecast": forecast})
    assert CURVE["sentence"] in html and "over the training rows" not in html


def test_a_run_without_a_curve_has_no_section(record: dict[str, Any]) -> None:
    html, markdown = pages(record, {})
    assert "The learning curve" not in html + markdown
