"""Lines of the progress output, formatted from events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve_core.events import Metric, Preflight, RunPlanned, StageFinished, Step, TrialFinished
from fastserve_core.tasks import MetricSpec
from fastserve_observers.formatting import (
    format_bytes,
    format_count,
    format_duration,
    format_milliseconds,
    format_per_second,
    format_rate,
    format_ratio,
    format_significant,
    format_value,
    to_finite_float,
)
from fastserve_observers.quality import (
    ScoreName,
    declared_metrics,
    find_main_score,
    format_metric_name,
    format_score,
    is_fraction,
)
from fastserve_observers.run_summary import RunSummary, Stage, make_headline

SUMMARY_COLUMNS = ("stage", "plugin", "status", "", "p50 ms", "per second", "MB", "smaller", "faster")


def format_plan(event: RunPlanned) -> str:
    """Return the line of the planned stages."""
    return "plan: " + ", ".join(f"{stage} {plugin} ({state})" for stage, plugin, state in event.stages)


def format_preflight(event: Preflight) -> str:
    """Return the line of the sizes, the memory and the expected duration."""
    return (
        f"to train: {format_count(event.rows)} rows, {format_count(event.tokens)} tokens "
        f"({event.unknown_share:.1%} unknown), "
        f"{format_count(event.parameters)} parameters; "
        f"{format_bytes(event.memory_bytes)} of memory needed of {format_bytes(event.available_bytes)} available; "
        f"{'about' if event.is_measured else 'less than'} {format_duration(event.seconds)}"
        + (f" on {event.processor}" if event.processor else "")
    )


def format_step(event: Step) -> str:
    """Return the details of a step for the progress bar."""
    parts = [
        f"epoch {event.epoch:.2f}",
        f"loss {format_value(event.loss)}",
        f"{format_rate(event.samples_per_s)} samples/s",
        f"{format_rate(event.tokens_per_s)} tokens/s",
    ]
    return ", ".join(parts)


def format_time_left(event: Step) -> str:
    """Return the remaining time, or an empty string if it is unknown."""
    return f"{format_duration(event.seconds_left)} left" if to_finite_float(event.seconds_left) is not None else ""


def format_metric(event: Metric) -> str:
    """Return the line of a validation metric."""
    name = format_metric_name(event.name)
    prefix = "" if "validation" in name else "validation "
    score = ScoreName(event.name, MetricSpec(unit="%")) if event.unit == "%" else event.name
    return f"step {event.step}: {prefix}{name} {format_score(score, event.value)}"


def format_overrides(options: Mapping[str, Any]) -> str:
    """Return options by the last part of their path: ``lr=3.1e-05, batch_size=16``."""
    return ", ".join(f"{path.rpartition('.')[2]}={format_value(value, 3)}" for path, value in options.items())


def format_trial(event: TrialFinished, is_best: bool) -> str:
    """Return the line of a finished trial."""
    outcome = "failed" if to_finite_float(event.score) is None else f"score {format_value(event.score)}"
    options = format_overrides(event.options)
    after = f" after {event.steps} steps" if event.steps is not None else ""
    outcome += after + (" (best so far)" if is_best else "")
    parts = [outcome, options, format_recipe(event), format_duration(event.seconds)]
    return f"trial {event.number + 1}/{event.trials}: " + ", ".join(part for part in parts if part)


def format_recipe(event: TrialFinished) -> str:
    """Return the measures of a compression recipe, or the reason why a trial failed; empty for a training."""
    if event.error or not event.measures:
        return event.error
    refused = event.measures.get("refused")
    return format_measures(event.measures) + (f", rejected by the gate: {refused}" if refused else "")


def format_stage_result(event: StageFinished) -> str:
    """Return the line of a finished stage.

    For example: ``compress x: rejected in 31 s: quality drops ...; accuracy 86.1 % on validation, ...``.
    """
    reason = f": {event.reason}" if event.reason else ""
    figures = format_measures(event.measures, declared_metrics({"metrics": event.metrics}))
    outcome = f"{event.status} in {format_duration(event.seconds)}"
    return f"{event.stage} {event.plugin}: {outcome}{reason}" + (f"; {figures}" if figures else "")


def format_measures(measures: Mapping[str, Any], declared: Mapping[str, MetricSpec] | None = None) -> str:
    """Return the main score, latency, throughput and size.

    Args:
        measures: The measurements.
        declared: The task's declarations of its scores, if they are known.
    """
    parts = []
    test, validation = measures.get("quality") or {}, measures.get("quality_validation") or {}
    if name := find_main_score(validation, declared) or find_main_score(test, declared):
        splits = (("validation", validation), ("test", test))
        scores = [f"{format_score(name, scores[name])} on {split}" for split, scores in splits if name in scores]
        parts.append(f"{format_metric_name(name)} {', '.join(scores)}")
    stage = Stage("", "", measures=measures)
    for key, show in (
        ("latency_ms_p50", format_milliseconds),
        ("throughput_per_s", format_per_second),
        ("size_bytes", format_bytes),
    ):
        if (value := stage.get_measure(key)) is not None:
            parts.append(show(value))
    return ", ".join(parts)


def make_summary_table(outcome: RunSummary) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the summary table."""
    unit = " %" if is_fraction(outcome.metric) else ""
    head = [name or f"test {format_metric_name(outcome.metric) or 'quality'}{unit}" for name in SUMMARY_COLUMNS]
    return head, [_summary_row(outcome, stage) for stage in outcome.stages]


def _summary_row(outcome: RunSummary, stage: Stage) -> list[str]:
    latency, throughput, bytes_ = map(stage.get_measure, ("latency_ms_p50", "throughput_per_s", "size_bytes"))
    times = (outcome.get_size_ratio(stage), outcome.get_speedup(stage))
    return [
        stage.stage,
        stage.plugin,
        stage.status,
        outcome.format_test_score(stage).removesuffix(" %"),
        "-" if latency is None else format_significant(latency),
        "-" if throughput is None else format_significant(throughput),
        "-" if bytes_ is None else format_significant(bytes_ / 1e6),
        *("-" if value is None else f"{format_ratio(value)}x" for value in times),
    ]


def make_closing_lines(outcome: RunSummary) -> list[str]:
    """Return the conclusion of the run and the commands for its best model."""
    commands = outcome.list_commands()
    return [
        make_headline(outcome),
        *(f"{verb}: {line}" for verb, line in zip(("serve", "predict"), commands, strict=False)),
    ]
