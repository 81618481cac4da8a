"""The search space: from the config's description to Nevergrad's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nevergrad as ng

from fastserve_core.errors import BadOption, Collector, suggest
from fastserve_nevergrad.ranges import read_range

READY = {
    "lr": {"log": [1e-5, 3e-4]},
    "batch_size": {"choice": [16, 32, 64]},
}
"""What is searched when nothing is said, as far as the trainer has it."""


def ready_made(trainer: Mapping[str, Any], fixed: frozenset[str]) -> dict[str, Any]:
    """The default space for a trainer, without what the user fixed."""
    found = {path: READY[path.rpartition(".")[2]] for path in trainer if path.rpartition(".")[2] in READY}
    return {path: description for path, description in found.items() if path not in fixed}


def build(space: Mapping[str, Any], known: Mapping[str, Any]) -> ng.p.Dict:
    """Nevergrad's parameters by path; every fault of the space is said at once.

    Raises ``BadOption``: a path that is not known, an empty or inverted range, the log of zero.
    """
    faults, parameters = Collector(), {}
    for path, description in space.items():
        with faults.collect():
            if path not in known:
                raise BadOption(f"tune.nevergrad.space: no option '{path}'{suggest(path, known)}")
            parameters[path] = _parameter(path, description)
    faults.raise_if_any()
    return ng.p.Dict(**parameters)


def _parameter(path: str, description: Any) -> Any:
    kind, values = read_range(path, description)
    if kind == "choice":
        return ng.p.Choice(values)
    low, high = values
    if kind == "log":
        return ng.p.Log(lower=low, upper=high)
    scalar = ng.p.Scalar(lower=low, upper=high)
    return scalar.set_integer_casting() if kind == "int" else scalar
