"""The lines that progress shows, made of events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve_core.events import Metric, Preflight, RunPlanned, StageFinished, Step, TrialFinished
from fastserve_observers.formatting import (
    count,
    duration,
    format_value,
    milliseconds,
    number,
    per_second,
    rate,
    ratio,
    significant_digits,
    size,
)
from fastserve_observers.quality import is_fraction, main_score, metric_label, show_score
from fastserve_observers.run_summary import RunSummary, Stage, headline

HEAD = ("stage", "plugin", "status", "", "p50 ms", "per second", "MB", "smaller", "faster")


def plan_line(event: RunPlanned) -> str:
    return "plan: " + ", ".join(f"{stage} {plugin} ({state})" for stage, plugin, state in event.stages)


def preflight_line(event: Preflight) -> str:
    return (
        f"to train: {count(event.rows)} rows, {count(event.tokens)} tokens, {count(event.parameters)} parameters; "
        f"{size(event.memory_bytes)} of memory needed of {size(event.available_bytes)} available; "
        f"about {duration(event.seconds)}"
    )


def step_detail(event: Step) -> str:
    parts = [
        f"epoch {event.epoch:.2f}",
        f"loss {format_value(event.loss)}",
        f"{rate(event.samples_per_s)} samples/s",
        f"{rate(event.tokens_per_s)} tokens/s",
    ]
    return ", ".join(parts)


def time_left(event: Step) -> str:
    return f"{duration(event.seconds_left)} left" if number(event.seconds_left) is not None else ""


def metric_line(event: Metric) -> str:
    name = metric_label(event.name)
    where = "" if "validation" in name else "validation "
    return f"step {event.step}: {where}{name} {show_score(event.name, event.value)}"


def format_overrides(options: Mapping[str, Any]) -> str:
    """Options by path, in short: ``lr=3.1e-05, batch_size=16``."""
    return ", ".join(f"{path.rpartition('.')[2]}={format_value(value, 3)}" for path, value in options.items())


def trial_line(event: TrialFinished, best: bool) -> str:
    outcome = "failed" if number(event.score) is None else f"score {format_value(event.score)}"
    options = format_overrides(event.options)
    after = f" after {event.steps} steps" if event.steps is not None else ""
    outcome += after + (" (best so far)" if best else "")
    parts = [outcome, options, recipe_figures(event), duration(event.seconds)]
    return f"trial {event.number + 1}/{event.trials}: " + ", ".join(one for one in parts if one)


def recipe_figures(event: TrialFinished) -> str:
    """What a recipe came to, or why the trial failed; empty for a training."""
    if event.error or not event.measures:
        return event.error
    refused = event.measures.get("refused")
    return key_measures(event.measures) + (f", refused by the gate: {refused}" if refused else "")


def finished_line(event: StageFinished) -> str:
    """``compress x: rejected in 31 s: quality drops …; accuracy 86.1 % on validation, 85.9 % on test, …``."""
    why = f": {event.reason}" if event.reason else ""
    figures = key_measures(event.measures)
    took = f"{event.status} in {duration(event.seconds)}"
    return f"{event.stage} {event.plugin}: {took}{why}" + (f"; {figures}" if figures else "")


def key_measures(measures: Mapping[str, Any]) -> str:
    parts = []
    test, validation = measures.get("quality") or {}, measures.get("quality_validation") or {}
    if name := main_score(validation) or main_score(test):
        splits = (("validation", validation), ("test", test))
        scores = [f"{show_score(name, scores[name])} on {split}" for split, scores in splits if name in scores]
        parts.append(f"{metric_label(name)} {', '.join(scores)}")
    stage = Stage("", "", measures=measures)
    for key, show in (
        ("latency_ms_p50", milliseconds),
        ("throughput_per_s", per_second),
        ("size_bytes", size),
    ):
        if (value := stage.measure(key)) is not None:
            parts.append(show(value))
    return ", ".join(parts)


def summary_table(outcome: RunSummary) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the last table."""
    unit = " %" if is_fraction(outcome.metric) else ""
    head = [name or f"test {metric_label(outcome.metric) or 'quality'}{unit}" for name in HEAD]
    return head, [_summary_row(outcome, stage) for stage in outcome.stages]


def _summary_row(outcome: RunSummary, stage: Stage) -> list[str]:
    latency, throughput, bytes_ = map(stage.measure, ("latency_ms_p50", "throughput_per_s", "size_bytes"))
    times = (outcome.times_smaller(stage), outcome.times_faster(stage))
    return [
        stage.stage,
        stage.plugin,
        stage.status,
        outcome.show(stage).removesuffix(" %"),
        "-" if latency is None else significant_digits(latency),
        "-" if throughput is None else significant_digits(throughput),
        "-" if bytes_ is None else significant_digits(bytes_ / 1e6),
        *("-" if value is None else f"{ratio(value)}x" for value in times),
    ]


def closing_lines(outcome: RunSummary) -> list[str]:
    """What the table says in words, and what to do next."""
    commands = outcome.commands()
    return [headline(outcome), *(f"{verb}: {line}" for verb, line in zip(("serve", "predict"), commands, strict=False))]
