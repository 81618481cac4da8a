"""Summary of a run's record: measures, the best model, and its gains."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from fastserve_core.events import TrialFinished
from fastserve_core.pipeline import StageRecord
from fastserve_observers.formatting import format_bytes, format_milliseconds, format_ratio, to_finite_float
from fastserve_observers.quality import (
    ScoreName,
    compute_sampling_error,
    declared_metrics,
    describe_difference,
    find_main_score,
    format_metric_name,
    format_score,
)

EQUAL_RATIO_TOLERANCE = 0.025
"""Ratios within this distance of 1 are described as equal."""


class Stage(StageRecord):
    """One stage of ``run.json``."""

    @property
    def name(self) -> str:
        """Return the stage and its plugin."""
        return f"{self.stage} {self.plugin}"

    @property
    def description(self) -> str:
        """Return the stage's model as a noun phrase."""
        return {"train": "the trained model", "model": "the model it started from"}.get(
            self.stage, f"the model made by {self.plugin}"
        )

    def get_measure(self, name: str) -> float | None:
        """Return a measure, or None if it is absent or not finite."""
        return to_finite_float(self.measures.get(name))

    def get_score(self, name: str, split: str = "quality") -> float | None:
        """Return a score of ``quality`` or ``quality_validation``, or None if it is absent or not finite."""
        return to_finite_float((self.measures.get(split) or {}).get(name))


class RunSummary:
    """Summary of a record; the first measured stage is the baseline of comparisons."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        """Read the stages.

        Args:
            record: Content of ``run.json``.
        """
        self.record = record
        self.task = str(record.get("task", ""))
        self.declared = declared_metrics(record)
        self.stages = [Stage.read(line) for line in record.get("stages", ())]
        self.measured = [stage for stage in self.stages if stage.measures]

    @property
    def data(self) -> Mapping[str, Any]:
        """Return the record's section about the data."""
        data: Mapping[str, Any] = self.record.get("data") or {}
        return data

    @property
    def rows(self) -> Mapping[str, Any]:
        """Return the number of rows by split."""
        rows: Mapping[str, Any] = self.data.get("rows") or {}
        return rows

    @cached_property
    def baseline(self) -> Stage | None:
        """Return the first measured stage."""
        return self.measured[0] if self.measured else None

    @cached_property
    def best(self) -> Stage | None:
        """Return the last stage whose artifact is the record's best."""
        path = self.record.get("best")
        return next((stage for stage in reversed(self.stages) if path and stage.artifact == path), None)

    @cached_property
    def metric(self) -> str:
        """Return the name of the main score."""
        names = (find_main_score(stage.measures.get("quality") or {}, self.declared) for stage in self.measured)
        return next(filter(None, names), "")

    def score_name(self, name: str) -> str:
        """Return a score's name with the task's declaration of it."""
        return ScoreName(name, self.declared[name]) if name in self.declared else name

    @property
    def recipes(self) -> list[Stage]:
        """Return the compression recipes of a tuner that resulted in a model, with validation measures only."""
        return [
            Stage("trial", str(trial.number + 1), status=status, measures=trial.measures)
            for trial in self.trials
            if trial.measures and (status := "done" if trial.measures["accepted"] else "rejected")
        ]

    @property
    def trials(self) -> list[TrialFinished]:
        """Return the trials of all searches, including reused ones."""
        names = ("number", "options", "score", "seconds", "measures", "error")
        return [
            TrialFinished(trials=len(stage.trials), **{name: trial[name] for name in names if name in trial})
            for stage in self.stages
            for trial in stage.trials
        ]

    @property
    def trial_curves(self) -> dict[int, list[list[float]]]:
        """Return [step, score] pairs by trial, for trials that were scored during training."""
        return {
            trial["number"]: trial["curve"] for stage in self.stages for trial in stage.trials if trial.get("curve")
        }

    def get_sampling_error(self, stage: Stage, split: str = "test") -> float | None:
        """Return the sampling error of the stage's main score on a split, or None if it is unknown."""
        measured = "quality" if split == "test" else "quality_validation"
        return compute_sampling_error(self.metric, stage.get_score(self.metric, measured), self.rows.get(split))

    def format_test_score(self, stage: Stage) -> str:
        """Return the stage's main score on the test split with its sampling error."""
        text, error = format_score(self.metric, stage.get_score(self.metric)), self.get_sampling_error(stage)
        return text if error is None else f"{text.removesuffix(' %')} ± {100 * error:.1f} %"

    def get_size_ratio(self, stage: Stage) -> float | None:
        """Return the baseline's size divided by the stage's."""
        return self._get_ratio("size_bytes", stage)

    def get_speedup(self, stage: Stage) -> float | None:
        """Return the baseline's latency divided by the stage's, from paired timing if available."""
        paired = to_finite_float((stage.measures.get("speedup") or {}).get("latency"))
        return self._get_ratio("latency_ms_p50", stage) if paired is None else paired

    def _get_ratio(self, name: str, stage: Stage) -> float | None:
        before = self.baseline.get_measure(name) if self.baseline else None
        after = stage.get_measure(name)
        return before / after if before and after else None

    def list_commands(self) -> list[str]:
        """Return the commands that serve and query the best artifact; empty without one."""
        if not self.record.get("best"):
            return []
        path = shlex.quote(str(self.record["best"]))
        return [f"fastserve serve {path}", f'fastserve predict {path} "text"']


def make_headline(summary: RunSummary) -> str:
    """Return the outcome of the run in one sentence."""
    best, first = summary.best, summary.baseline
    if best is None:
        return "The run made no model." if not summary.measured else "No model of this run was accepted."
    if not best.measures or first is None:
        return f"The run made {best.description}; it was not measured."
    if best.artifact == first.artifact:
        figures, rejections = _describe_figures(summary, best), _describe_rejections(summary)
        return f"{_capitalize(best.description)} is the best model: {figures}.{rejections}"
    gains, quality = _describe_gains(summary, best, first), _describe_quality(summary, best, first)
    return f"{_capitalize(best.description)} is {gains}{quality}."


def make_significance_note(summary: RunSummary) -> str:
    """Return a note if the difference in accuracy is within the sampling error, otherwise an empty string."""
    best, first = summary.best, summary.baseline
    if best is None or first is None or best.artifact == first.artifact:
        return ""
    before, after = (stage.get_score(summary.metric) for stage in (first, best))
    error = summary.get_sampling_error(first)
    if before is None or after is None or error is None or before == after or abs(after - before) > error:
        return ""
    return (
        f"The difference in accuracy is within the sampling error of the test split "
        f"(± {100 * error:.1f} points with {summary.rows['test']:,} rows)."
    )


def _describe_figures(summary: RunSummary, stage: Stage) -> str:
    parts = (
        [f"{format_metric_name(summary.metric)} {summary.format_test_score(stage)} on the test split"]
        if summary.metric
        else []
    )
    latency, bytes_ = stage.get_measure("latency_ms_p50"), stage.get_measure("size_bytes")
    parts += [f"{format_milliseconds(latency)} for one input"] if latency is not None else []
    parts += [format_bytes(bytes_)] if bytes_ is not None else []
    return ", ".join(parts) or "not measured"


def _describe_rejections(summary: RunSummary) -> str:
    count = sum(stage.status == "rejected" for stage in summary.stages)
    if not count:
        return ""
    return f" {count} compressed candidate{'s were' if count > 1 else ' was'} rejected."


def _describe_gains(summary: RunSummary, best: Stage, first: Stage) -> str:
    """Return a clause such as ``3.9 times smaller than the trained model and as fast``, with equalities last."""
    smaller, faster = summary.get_size_ratio(best), summary.get_speedup(best)
    changed, equal = [], []
    for times, better, worse, same in (
        (smaller, "smaller", "larger", "as large"),
        (faster, "faster", "slower", "as fast"),
    ):
        if times is not None and abs(times - 1) < EQUAL_RATIO_TOLERANCE:
            equal.append(same)
        elif times is not None:
            changed.append(_describe_ratio(times, better, worse))
    equalities = " and ".join(equal)
    if not changed:
        return f"{equalities} as {first.description}" if equalities else f"not comparable with {first.description}"
    return f"{' and '.join(changed)} than {first.description}" + (f" and {equalities}" if equalities else "")


def _describe_ratio(times: float, better: str, worse: str) -> str:
    factor = max(times, 1 / times)
    amount = f"{100 * (factor - 1):.0f} %" if factor < 1.1 else f"{format_ratio(factor)} times"
    return f"{amount} {better if times > 1 else worse}"


def _describe_quality(summary: RunSummary, best: Stage, first: Stage) -> str:
    before, after = (stage.get_score(summary.metric) for stage in (first, best))
    if before is None or after is None:
        return ""
    return f", {describe_difference(summary.metric, before, after)} on the test split"


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]
