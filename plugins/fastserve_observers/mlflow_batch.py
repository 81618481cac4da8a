"""What is to be told to MLflow about one run, put together so that few requests carry it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metric:
    """A number at a step; ``when`` in seconds since 1970."""

    name: str
    value: float
    step: int
    when: float


@dataclass
class MetricBatch:
    """News of the run itself (``run`` is empty) or of a trial; times in seconds since 1970.

    ``began`` counts when MLflow does not know the run yet. ``ended`` is MLflow's final status and its time.
    """

    run: str
    began: float
    figures: list[Metric] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    ended: tuple[str, float] | None = None

    @property
    def only_figures(self) -> bool:
        return not (self.params or self.tags or self.ended)

    def add(self, later: MetricBatch) -> None:
        """Take in what a later parcel about the same run says."""
        self.figures += later.figures
        self.params |= later.params
        self.tags |= later.tags
        self.ended = later.ended or self.ended


def merged(parcels: Iterable[MetricBatch]) -> list[MetricBatch]:
    """One parcel for each run, in the order in which the runs were first spoken of."""
    found: dict[str, MetricBatch] = {}
    for parcel in parcels:
        found.setdefault(parcel.run, MetricBatch(parcel.run, parcel.began)).add(parcel)
    return list(found.values())
