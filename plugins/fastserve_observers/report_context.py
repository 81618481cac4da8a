"""Context of the report's templates."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fastserve_core.events import TrialFinished
from fastserve_observers import plots, search_plots
from fastserve_observers.formatting import (
    format_bytes,
    format_count,
    format_duration,
    format_milliseconds,
    format_per_second,
    format_ratio,
    format_value,
    to_finite_float,
)
from fastserve_observers.history import History
from fastserve_observers.learning_curve_plot import draw_learning_curve
from fastserve_observers.messages import format_overrides, format_recipe
from fastserve_observers.pareto_plot import draw_pareto_front
from fastserve_observers.quality import compute_sampling_error, format_metric_name, format_score
from fastserve_observers.run_summary import RunSummary, Stage, make_headline, make_significance_note

MAX_LABELS = 30
MAX_TEXT = 300


def make_context(record: Mapping[str, Any], folder: Path, history: History, now: datetime) -> dict[str, Any]:
    """Return the context of the templates: text, tables and plots.

    Args:
        record: Content of ``run.json``.
        folder: Run folder.
        history: Events of the run; empty if they were not observed.
        now: Time of the report.
    """
    summary = RunSummary(record)
    return {
        "folder": str(folder),
        "written": now.strftime("%Y-%m-%d %H:%M"),
        "task": format_metric_name(summary.task),
        "status": str(record.get("status", "")),
        "seed": record.get("seed"),
        "sentence": make_headline(summary),
        "doubt": make_significance_note(summary),
        "tiles": _summary_cards(summary),
        "commands": summary.list_commands(),
        "data": _list_data_facts(summary, history),
        "labels": _format_labels(summary),
        "stage_head": _list_stage_columns(summary),
        "stages": [_make_stage_row(summary, stage) for stage in summary.stages],
        "rejected": [(stage.name, stage.reason) for stage in summary.stages if stage.reason],
        "scores": _list_scores(summary),
        "front": draw_pareto_front(summary),
        "trials": _make_trial_rows(summary.trials or history.trials),
        "trials_plots": _draw_search(summary, history),
        "importance": _list_importance(summary.trials or history.trials),
        "found": [(stage.name, _format_options(stage.found)) for stage in summary.stages if stage.found],
        "curves": [(name, drawn) for name, curves in history.curves.items() if (drawn := plots.draw_curves(curves))],
        "reused": _list_reused_stages(summary),
        "learning": str((record.get("learning_curve") or {}).get("sentence", "")),
        "learning_plot": _draw_learning(summary, record.get("learning_curve") or {}),
        "options": [(stage.name, _format_options(stage.options)) for stage in summary.stages if stage.options],
        "lineage": [stage for stage in summary.stages if stage.artifact],
        "best": str(record.get("best") or ""),
        "doubted": _list_doubted(record),
        "samples": _list_samples(record),
        "command": f"fastserve {record['command']}" if record.get("command") else "",
        "fingerprint": str(summary.data.get("fingerprint", "")),
        "warnings": history.warnings,
    }


def _summary_cards(outcome: RunSummary) -> list[tuple[str, str, str]]:
    """Return name, value and comparison of the best model's main measures."""
    best, first = outcome.best, outcome.baseline
    if best is None or first is None or not best.measures:
        return []
    same = best.artifact == first.artifact
    tiles = []
    if outcome.metric:
        note = "" if same else f"{outcome.format_test_score(first)} before"
        tiles.append((f"{format_metric_name(outcome.metric)}, test split", outcome.format_test_score(best), note))
    for name, key, show in (
        ("latency, p50", "latency_ms_p50", format_milliseconds),
        ("throughput", "throughput_per_s", format_per_second),
        ("size", "size_bytes", format_bytes),
    ):
        after, before = best.get_measure(key), first.get_measure(key)
        if after is not None:
            tiles.append((name, show(after), "" if same or before is None else f"{show(before)} before"))
    return tiles


def _list_data_facts(outcome: RunSummary, history: History) -> list[tuple[str, str]]:
    facts = [
        (f"{split} rows", format_count(rows))
        for split, rows in outcome.rows.items()
        if to_finite_float(rows) is not None
    ]
    if bad := outcome.data.get("bad_rows"):
        facts.append(("bad rows left out", format_count(bad)))
    notes = outcome.data.get("notes")
    facts += [("note on the data", str(note)) for note in notes] if isinstance(notes, list) else []
    if preflight := history.preflight:
        facts += [
            ("tokens to train on", format_count(preflight.tokens)),
            ("parameters of the model", format_count(preflight.parameters)),
        ]
    best = outcome.best or outcome.baseline
    error = outcome.get_sampling_error(best) if best else None
    if error is not None:
        facts.append(("sampling error of the test accuracy", f"± {100 * error:.1f} points"))
    return facts


def _format_labels(outcome: RunSummary) -> str:
    labels = [str(label) for label in outcome.data.get("labels") or ()]
    more = f" … and {len(labels) - MAX_LABELS} more" if len(labels) > MAX_LABELS else ""
    return ", ".join(labels[:MAX_LABELS]) + more


def _list_stage_columns(outcome: RunSummary) -> list[str]:
    name = format_metric_name(outcome.metric) or "quality"
    return [
        "stage", "plugin", "status", f"test {name}", f"validation {name}", "p50", "throughput", "size", "smaller",
        "faster", "p99", "memory", "time",
    ]  # fmt: skip


def _make_stage_row(outcome: RunSummary, stage: Stage) -> dict[str, Any]:
    def show(key: str, how: Callable[[float], str]) -> str:
        value = stage.get_measure(key)
        return "-" if value is None else how(value)

    cells = [
        outcome.format_test_score(stage),
        format_score(outcome.metric, stage.get_score(outcome.metric, "quality_validation")),
        show("latency_ms_p50", format_milliseconds),
        show("throughput_per_s", format_per_second),
        show("size_bytes", format_bytes),
        _format_times(outcome.get_size_ratio(stage)),
        _format_times(outcome.get_speedup(stage)),
        show("latency_ms_p99", format_milliseconds),
        show("peak_memory_bytes", format_bytes),
        format_duration(stage.seconds),
    ]
    best = stage is outcome.best
    return {"stage": stage.stage, "plugin": stage.plugin, "status": stage.status, "cells": cells, "best": best}


def _format_times(value: float | None) -> str:
    return "-" if value is None else f"{format_ratio(value)}x"


def _list_doubted(record: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return split, label, answer and input of the rows that the best model doubts most."""
    rows = []
    for row in record.get("doubted_rows") or ():
        values = row["input"].values()
        text = " | ".join(one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in values)
        rows.append((row["split"], row["label"], f"{row['answer']} ({row['score']:.3f})", _shorten(text)))
    return rows


def _list_samples(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the validation rows that several models answered, with each answer."""
    return [
        {
            "input": _shorten(sample["input"]),
            "answers": [("expected", _shorten(sample["expected"]))]
            + [(model, _shorten(answer)) for model, answer in sample["answers"].items()],
        }
        for sample in record.get("samples") or ()
    ]


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} …"


def _list_scores(outcome: RunSummary) -> list[tuple[str, str, str, str]]:
    """Return stage, metric, test and validation of every score, if stages have more than one score."""
    rows: list[tuple[str, str, str, str]] = []
    for stage in outcome.measured:
        test, validation = stage.measures.get("quality") or {}, stage.measures.get("quality_validation") or {}
        for name in dict.fromkeys([*test, *validation]):
            on_test = _format_with_error(outcome, name, test.get(name), "test")
            on_validation = _format_with_error(outcome, name, validation.get(name), "validation")
            rows.append((stage.name, format_metric_name(name), on_test, on_validation))
    return rows if len(rows) > len(outcome.measured) else []


def _format_with_error(outcome: RunSummary, name: str, value: Any, split: str) -> str:
    declared = outcome.score_name(name)
    error = compute_sampling_error(declared, value, outcome.rows.get(split))
    shown = format_score(declared, value)
    return shown if error is None else f"{shown.removesuffix(' %')} ± {100 * error:.1f} %"


def _make_trial_rows(trials: list[TrialFinished]) -> list[dict[str, Any]]:
    best = max((score for trial in trials if (score := to_finite_float(trial.score)) is not None), default=None)
    return [
        {
            "number": trial.number + 1,
            "score": "failed" if to_finite_float(trial.score) is None else format_value(trial.score),
            "options": format_overrides(trial.options),
            "figures": format_recipe(trial),
            "seconds": format_duration(trial.seconds),
            "best": best is not None and trial.score == best,
        }
        for trial in trials
    ]


def _list_importance(trials: list[TrialFinished]) -> list[tuple[str, str]]:
    shares = search_plots.compute_importance(trials)
    return [(option.rpartition(".")[2], f"{100 * share:.0f} %") for option, share in shares]


def _list_reused_stages(summary: RunSummary) -> list[str]:
    return [stage.name for stage in summary.stages if stage.status == "reused" and stage.stage in ("tune", "train")]


def _draw_learning(outcome: RunSummary, curve: Mapping[str, Any]) -> str:
    return draw_learning_curve(curve, outcome.score_name(str(curve.get("metric", ""))))


def _draw_search(outcome: RunSummary, history: History) -> list[str]:
    trials = outcome.trials or history.trials
    figures = [
        plots.draw_trials(trials),
        search_plots.draw_parallel_coordinates(trials),
        search_plots.draw_trial_curves(outcome.trial_curves),
    ]
    return list(filter(None, figures))


def _format_options(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), _format_option(value)) for name, value in options.items()]


def _format_option(value: Any) -> str:
    """Return a value as on the command line, with long fractions shortened."""
    if isinstance(value, str):
        return value
    return format_value(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)
