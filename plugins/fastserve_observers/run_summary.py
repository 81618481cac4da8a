"""A run's record as its observers read it: what was measured, what is best, and by how much."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from fastserve_core.events import TrialFinished
from fastserve_core.pipeline import StageRecord
from fastserve_observers.formatting import milliseconds, number, ratio, size
from fastserve_observers.quality import difference, main_score, metric_label, sampling_error, show_score

EQUAL_RATIO_TOLERANCE = 0.025
"""Ratios that are closer to one than this are called equal."""


class Stage(StageRecord):
    """One stage of ``run.json``, and what is said of it."""

    @property
    def name(self) -> str:
        return f"{self.stage} {self.plugin}"

    @property
    def called(self) -> str:
        """What the stage made, as a noun phrase."""
        return {"train": "the trained model", "model": "the model it started from"}.get(
            self.stage, f"the model made by {self.plugin}"
        )

    def measure(self, name: str) -> float | None:
        return number(self.measures.get(name))

    def score(self, name: str, split: str = "quality") -> float | None:
        return number((self.measures.get(split) or {}).get(name))


class RunSummary:
    """The whole record, with the first measured stage as what the others are compared with."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record
        self.task = str(record.get("task", ""))
        self.stages = [Stage.read(line) for line in record.get("stages", ())]
        self.measured = [one for one in self.stages if one.measures]

    @property
    def data(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.record.get("data") or {}
        return found

    @property
    def rows(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.data.get("rows") or {}
        return found

    @cached_property
    def first(self) -> Stage | None:
        return self.measured[0] if self.measured else None

    @cached_property
    def best(self) -> Stage | None:
        """The last stage whose artifact the record calls the best."""
        path = self.record.get("best")
        return next((one for one in reversed(self.stages) if path and one.artifact == path), None)

    @cached_property
    def metric(self) -> str:
        """The name of the score that is compared."""
        return next((name for one in self.measured if (name := main_score(one.measures.get("quality") or {}))), "")

    @property
    def recipes(self) -> list[Stage]:
        """The compression recipes that a tuner tried, as far as they came to a model; validation figures only."""
        return [
            Stage("trial", str(one.number + 1), status=status, measures=one.measures)
            for one in self.trials
            if one.measures and (status := "done" if one.measures["accepted"] else "rejected")
        ]

    @property
    def trials(self) -> list[TrialFinished]:
        """Every trial of the record's searches, also of one that was reused."""
        names = ("number", "options", "score", "seconds", "measures", "error")
        return [
            TrialFinished(trials=len(stage.trials), **{name: one[name] for name in names if name in one})
            for stage in self.stages
            for one in stage.trials
        ]

    @property
    def trial_curves(self) -> dict[int, list[list[float]]]:
        """By trial, its scores after so many steps; of those that were not scored as a whole there is none."""
        return {one["number"]: one["curve"] for stage in self.stages for one in stage.trials if one.get("curve")}

    def error(self, stage: Stage, split: str = "test") -> float | None:
        """The sampling error of the stage's score on a split, where it has one."""
        measured = "quality" if split == "test" else "quality_validation"
        return sampling_error(self.task, self.metric, stage.score(self.metric, measured), self.rows.get(split))

    def show(self, stage: Stage) -> str:
        """The stage's score on the test split, with its sampling error."""
        text, error = show_score(self.metric, stage.score(self.metric)), self.error(stage)
        return text if error is None else f"{text.removesuffix(' %')} ± {100 * error:.1f} %"

    def times_smaller(self, stage: Stage) -> float | None:
        return self._times("size_bytes", stage)

    def times_faster(self, stage: Stage) -> float | None:
        """By latency: as timed in turn with the first model where that was done, else by what each took by itself."""
        in_turn = number((stage.measures.get("speedup") or {}).get("latency"))
        return self._times("latency_ms_p50", stage) if in_turn is None else in_turn

    def _times(self, name: str, stage: Stage) -> float | None:
        before = self.first.measure(name) if self.first else None
        after = stage.measure(name)
        return before / after if before and after else None

    def commands(self) -> list[str]:
        """How to serve and ask the best artifact; none when there is no artifact."""
        if not self.record.get("best"):
            return []
        path = shlex.quote(str(self.record["best"]))
        return [f"fastserve serve {path}", f'fastserve predict {path} "text"']


def headline(outcome: RunSummary) -> str:
    """The outcome in plain words."""
    best, first = outcome.best, outcome.first
    if best is None:
        return "The run made no model." if not outcome.measured else "No model of this run is to be served."
    if not best.measures or first is None:
        return f"The run made {best.called}; it was not measured."
    if best.artifact == first.artifact:
        return f"{_capital(best.called)} is the one to serve: {_figures(outcome, best)}.{_refused(outcome)}"
    return f"{_capital(best.called)} is {_gains(outcome, best, first)}{_quality_clause(outcome, best, first)}."


def significance_note(outcome: RunSummary) -> str:
    """Says so when the difference in accuracy is smaller than what the test split can tell apart."""
    best, first = outcome.best, outcome.first
    if best is None or first is None or best.artifact == first.artifact:
        return ""
    before, after = (one.score(outcome.metric) for one in (first, best))
    error = outcome.error(first)
    if before is None or after is None or error is None or before == after or abs(after - before) > error:
        return ""
    return (
        f"That difference in accuracy is within the sampling error of the test split "
        f"(± {100 * error:.1f} points with {outcome.rows['test']:,} rows)."
    )


def _figures(outcome: RunSummary, stage: Stage) -> str:
    parts = [f"{metric_label(outcome.metric)} {outcome.show(stage)} on the test split"] if outcome.metric else []
    latency, bytes_ = stage.measure("latency_ms_p50"), stage.measure("size_bytes")
    parts += [f"{milliseconds(latency)} for one input"] if latency is not None else []
    parts += [size(bytes_)] if bytes_ is not None else []
    return ", ".join(parts) or "no figures were taken"


def _refused(outcome: RunSummary) -> str:
    refused = sum(one.status == "rejected" for one in outcome.stages)
    if not refused:
        return ""
    return f" {refused} compressed candidate{'s were' if refused > 1 else ' was'} rejected."


def _gains(outcome: RunSummary, best: Stage, first: Stage) -> str:
    """``3.9 times smaller and 2.9 times faster than the trained model``; what is equal comes last."""
    smaller, faster = outcome.times_smaller(best), outcome.times_faster(best)
    changed, equal = [], []
    for times, better, worse, same in (
        (smaller, "smaller", "larger", "as large"),
        (faster, "faster", "slower", "as fast"),
    ):
        if times is not None and abs(times - 1) < EQUAL_RATIO_TOLERANCE:
            equal.append(same)
        elif times is not None:
            changed.append(_compared(times, better, worse))
    alike = " and ".join(equal)
    if not changed:
        return f"{alike} as {first.called}" if alike else f"not to be compared with {first.called}"
    return f"{' and '.join(changed)} than {first.called}" + (f" and {alike}" if alike else "")


def _compared(times: float, better: str, worse: str) -> str:
    factor = max(times, 1 / times)
    amount = f"{100 * (factor - 1):.0f} %" if factor < 1.1 else f"{ratio(factor)} times"
    return f"{amount} {better if times > 1 else worse}"


def _quality_clause(outcome: RunSummary, best: Stage, first: Stage) -> str:
    before, after = (one.score(outcome.metric) for one in (first, best))
    if before is None or after is None:
        return ""
    return f", {difference(outcome.metric, before, after)} on the test split"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
