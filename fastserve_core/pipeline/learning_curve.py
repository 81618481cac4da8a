"""The learning curve of a run's data: trainings on parts of the rows, and a forecast for more of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.artifacts.files import read_json, write_json
from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import result_id
from fastserve_core.data.subsets import make_subset
from fastserve_core.errors import StageError, TransientError
from fastserve_core.evaluation.power_law import PowerLaw, fit_power_law
from fastserve_core.events import Event, Progress, WarningRaised
from fastserve_core.pipeline.context import make_train_context
from fastserve_core.pipeline.produce import Step
from fastserve_core.plugins.requests import StagedArtifact
from fastserve_core.tasks.task import Task

MIN_ROWS = 8
"""Trainings on fewer rows show chance more than the data."""
FORECAST_FACTOR = 2
"""The forecast is for so many times the rows: one further away is a guess."""
RECORD = "curve.json"


def trace_learning_curve(step: Step, trained: Artifact) -> dict[str, Any]:
    """Train on parts of the rows, and return the curve for ``run.json``.

    All trainings have the options of the run's training, and are scored on the same validation rows. The result of
    each is kept in the store.

    Args:
        step: The training of the run, with all rows.
        trained: Its result.
    """
    session, task = step.session, step.session.settings.task
    data = session.require_data()
    total, metric = data.counts["train"], task.main_metric
    sizes = subset_sizes(total, session.settings.general.learning_curve.fractions)
    points = []
    for number, rows in enumerate(sizes):
        session.emit(Progress("learning curve", number, len(sizes)))
        score = _score_subset(step, rows).get(metric)
        if score is not None:
            points.append({"rows": rows, "score": score})
    score = (trained.measures.get("quality_validation") or {}).get(metric)
    if score is not None:
        points.append({"rows": total, "score": score})
    return describe_curve(points, task, data.counts["validation"], total)


def subset_sizes(total: int, fractions: Sequence[float]) -> list[int]:
    """Return the different numbers of rows of the parts, without those of fewer than ``MIN_ROWS`` rows."""
    sizes = sorted({round(fraction * total) for fraction in fractions})
    return [size for size in sizes if MIN_ROWS <= size < total]


def _score_subset(step: Step, rows: int) -> Mapping[str, float]:
    """Return the validation scores of a training on so many rows; empty, with a warning, if it fails."""
    session = step.session
    subset = make_subset(
        session.require_data(), session.settings.task, rows, session.settings.general.seed, session.store
    )
    smaller = replace(step, session=replace(session, data=subset))
    name = result_id("curve", step.active.name, stable_hash(smaller.key))
    with session.store.claim(name, session.warn) as claim:
        if not claim.is_published:
            work, result = claim.partial / "work", claim.partial / "result"
            for folder in (work, result):
                folder.mkdir(exist_ok=True)
            context = make_train_context(smaller.session, work, step.model)
            context = replace(context, emit=_warnings_only(session.emit))
            try:
                staged: StagedArtifact = session.call_plugin(step.active, "train", context)
            except TransientError:
                raise
            except StageError as error:
                session.warn(f"the learning curve lacks the training on {rows} rows, which failed: {error}")
                return {}
            write_json(result / RECORD, dict(staged.scores))
            claim.publish(result)
        scores: dict[str, float] = read_json(claim.final / RECORD)
    return scores


def _warnings_only(emit: Any) -> Any:
    def report(event: Event) -> None:
        if isinstance(event, WarningRaised):
            emit(event)

    return report


def describe_curve(points: Sequence[Mapping[str, Any]], task: Task, validation: int, total: int) -> dict[str, Any]:
    """Return points, fitted law, forecast and a sentence on them.

    Args:
        points: Objects with ``rows`` and the ``score`` with them, by rising number of rows.
        task: The task, which declares the metric.
        validation: The number of validation rows.
        total: The number of training rows.
    """
    spec = task.metrics[task.main_metric]
    rows, scores = [point["rows"] for point in points], [float(point["score"]) for point in points]
    sign, best = (-1, 1.0) if spec.higher_is_better else (1, 0.0)  # error = sign * (score - best)
    floor = 0.5 / max(1, validation)  # no error on few rows is not an error of 0
    law = fit_power_law(rows, [max(floor, sign * (score - best)) for score in scores])
    curve: dict[str, Any] = {"metric": task.main_metric, "split": "validation", "points": [*points]}
    curve |= {"fit": None, "forecast": None}
    if law is None:
        few = f"{len(points)} trainings of at least {MIN_ROWS} rows are too few for a learning curve"
        return curve | {"sentence": f"{few}, which needs 3: the training split has {total} rows."}
    more = FORECAST_FACTOR * total
    expected, low, high = (best + sign * error for error in law.predict(more))
    curve["fit"] = {"scale": law.scale, "exponent": law.exponent, "deviation": law.deviation}
    curve["forecast"] = {"rows": more, "score": expected, "low": min(low, high), "high": max(low, high)}
    return curve | {"sentence": _describe_forecast(curve, law, scores[-1], spec.unit)}


def _describe_forecast(curve: Mapping[str, Any], law: PowerLaw, score: float, unit: str) -> str:
    def show(value: float) -> str:
        return f"{100 * value:.1f} %" if unit == "%" else f"{value:.3f}"

    points, forecast = curve["points"], curve["forecast"]
    name, first, last = curve["metric"].replace("_", " "), points[0]["rows"], points[-1]["rows"]
    if law.exponent <= 0:
        return (
            f"From {first:,} to {last:,} training rows, {name} did not improve on the validation rows: more rows of "
            "the same kind are not expected to help before the options or the labels change."
        )
    return (
        f"With {forecast['rows']:,} training rows instead of {last:,}, {name} on the validation rows is expected to "
        f"go from {show(score)} to {show(forecast['score'])} (80 % interval: {show(forecast['low'])} to "
        f"{show(forecast['high'])}), by a power law through {len(points)} trainings."
    )
