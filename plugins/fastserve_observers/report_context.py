"""What the report's two templates are filled with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fastserve_core.events import TrialFinished
from fastserve_observers import plots, search_plots
from fastserve_observers.formatting import count, duration, format_value, milliseconds, number, per_second, ratio, size
from fastserve_observers.history import History
from fastserve_observers.messages import format_overrides, recipe_figures
from fastserve_observers.pareto_plot import front
from fastserve_observers.quality import metric_label, sampling_error, show_score
from fastserve_observers.run_summary import RunSummary, Stage, headline, significance_note

SHOWN_LABELS = 30


def page(record: Mapping[str, Any], folder: Path, history: History, now: datetime) -> dict[str, Any]:
    """Every section as text, tables and plots, of the record alone or with what the events told."""
    outcome = RunSummary(record)
    return {
        "folder": str(folder),
        "written": now.strftime("%Y-%m-%d %H:%M"),
        "task": metric_label(outcome.task),
        "status": str(record.get("status", "")),
        "seed": record.get("seed"),
        "sentence": headline(outcome),
        "doubt": significance_note(outcome),
        "tiles": _summary_cards(outcome),
        "commands": outcome.commands(),
        "data": _data(outcome, history),
        "labels": _labels(outcome),
        "stage_head": _stage_head(outcome),
        "stages": [_stage_row(outcome, one) for one in outcome.stages],
        "rejected": [(one.name, one.reason) for one in outcome.stages if one.reason],
        "scores": _scores(outcome),
        "front": front(outcome),
        "trials": _trials(outcome.trials or history.trials),
        "trials_plots": _study(outcome, history),
        "importance": [
            (one.rpartition(".")[2], f"{100 * share:.0f} %")
            for one, share in search_plots.importance(outcome.trials or history.trials)
        ],
        "found": [(one.name, _values(one.found)) for one in outcome.stages if one.found],
        "curves": [(name, drawn) for name, told in history.curves.items() if (drawn := plots.curves(told))],
        "reused": [one.name for one in outcome.stages if one.status == "reused" and one.stage in ("tune", "train")],
        "options": [(one.name, _values(one.options)) for one in outcome.stages if one.options],
        "lineage": [one for one in outcome.stages if one.artifact],
        "best": str(record.get("best") or ""),
        "command": f"fastserve {record['command']}" if record.get("command") else "",
        "fingerprint": str(outcome.data.get("fingerprint", "")),
        "warnings": history.warnings,
    }


def _summary_cards(outcome: RunSummary) -> list[tuple[str, str, str]]:
    """Name, figure and comparison of the best model's main measures."""
    best, first = outcome.best, outcome.first
    if best is None or first is None or not best.measures:
        return []
    same = best.artifact == first.artifact
    tiles = []
    if outcome.metric:
        note = "" if same else f"{outcome.show(first)} before"
        tiles.append((f"{metric_label(outcome.metric)}, test split", outcome.show(best), note))
    for name, key, show in (
        ("latency, p50", "latency_ms_p50", milliseconds),
        ("throughput", "throughput_per_s", per_second),
        ("size", "size_bytes", size),
    ):
        after, before = best.measure(key), first.measure(key)
        if after is not None:
            tiles.append((name, show(after), "" if same or before is None else f"{show(before)} before"))
    return tiles


def _data(outcome: RunSummary, history: History) -> list[tuple[str, str]]:
    facts = [(f"{split} rows", count(rows)) for split, rows in outcome.rows.items() if number(rows) is not None]
    if bad := outcome.data.get("bad_rows"):
        facts.append(("bad rows left out", count(bad)))
    if told := history.preflight:
        facts += [("tokens to train on", count(told.tokens)), ("parameters of the model", count(told.parameters))]
    best = outcome.best or outcome.first
    error = outcome.error(best) if best else None
    if error is not None:
        facts.append(("sampling error of the test accuracy", f"± {100 * error:.1f} points"))
    return facts


def _labels(outcome: RunSummary) -> str:
    labels = [str(one) for one in outcome.data.get("labels") or ()]
    more = f" … and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
    return ", ".join(labels[:SHOWN_LABELS]) + more


def _stage_head(outcome: RunSummary) -> list[str]:
    name = metric_label(outcome.metric) or "quality"
    return [
        "stage", "plugin", "status", f"test {name}", f"validation {name}", "p50", "throughput", "size", "smaller",
        "faster", "p99", "memory", "time",
    ]  # fmt: skip


def _stage_row(outcome: RunSummary, stage: Stage) -> dict[str, Any]:
    def show(key: str, how: Callable[[float], str]) -> str:
        value = stage.measure(key)
        return "-" if value is None else how(value)

    cells = [
        outcome.show(stage),
        show_score(outcome.metric, stage.score(outcome.metric, "quality_validation")),
        show("latency_ms_p50", milliseconds),
        show("throughput_per_s", per_second),
        show("size_bytes", size),
        _times(outcome.times_smaller(stage)),
        _times(outcome.times_faster(stage)),
        show("latency_ms_p99", milliseconds),
        show("peak_memory_bytes", size),
        duration(stage.seconds),
    ]
    best = stage is outcome.best
    return {"stage": stage.stage, "plugin": stage.plugin, "status": stage.status, "cells": cells, "best": best}


def _times(value: float | None) -> str:
    return "-" if value is None else f"{ratio(value)}x"


def _scores(outcome: RunSummary) -> list[tuple[str, str, str, str]]:
    """Stage, measure, test and validation of every score of every measured stage, where there are several."""
    rows: list[tuple[str, str, str, str]] = []
    for stage in outcome.measured:
        test, validation = stage.measures.get("quality") or {}, stage.measures.get("quality_validation") or {}
        for name in dict.fromkeys([*test, *validation]):
            on_test = _with_error(outcome, name, test.get(name), "test")
            on_validation = _with_error(outcome, name, validation.get(name), "validation")
            rows.append((stage.name, metric_label(name), on_test, on_validation))
    return rows if len(rows) > len(outcome.measured) else []


def _with_error(outcome: RunSummary, name: str, value: Any, split: str) -> str:
    error = sampling_error(outcome.task, name, value, outcome.rows.get(split))
    shown = show_score(name, value)
    return shown if error is None else f"{shown.removesuffix(' %')} ± {100 * error:.1f} %"


def _trials(trials: list[TrialFinished]) -> list[dict[str, Any]]:
    best = max((score for one in trials if (score := number(one.score)) is not None), default=None)
    return [
        {
            "number": one.number + 1,
            "score": "failed" if number(one.score) is None else format_value(one.score),
            "options": format_overrides(one.options),
            "figures": recipe_figures(one),
            "seconds": duration(one.seconds),
            "best": best is not None and one.score == best,
        }
        for one in trials
    ]


def _study(outcome: RunSummary, history: History) -> list[str]:
    trials = outcome.trials or history.trials
    drawn = [
        plots.trials(trials),
        search_plots.parallel_coordinates(trials),
        search_plots.trial_curves(outcome.trial_curves),
    ]
    return list(filter(None, drawn))


def _values(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), _value(value)) for name, value in options.items()]


def _value(value: Any) -> str:
    """As it would be written on the command line, but for long fractions."""
    if isinstance(value, str):
        return value
    return format_value(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)
