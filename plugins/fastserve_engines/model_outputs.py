"""The outputs of a model that a task reads, with the last hidden state of models with a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastserve_core.tasks import select_outputs

LAST_HIDDEN_STATE = "last_hidden_state"
"""An output that models of transformers with a head do not have, but can compute."""


def hidden_state_arguments(model: Any, outputs: Sequence[str]) -> dict[str, bool]:
    """Return the arguments with which a model also returns its hidden states, if a task reads the last one.

    Args:
        model: Model of transformers.
        outputs: Patterns of the names of the outputs that are read.
    """
    has_head = getattr(model, "base_model", model) is not model
    return {"output_hidden_states": True} if has_head and LAST_HIDDEN_STATE in outputs else {}


def compute_outputs(model: Any, outputs: Sequence[str], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run a model, and return the outputs that match a pattern, by name.

    Args:
        model: Model of transformers.
        outputs: Patterns of the names of the outputs that are read.
        arguments: Inputs and further arguments of the model.

    Raises:
        ModelError: No output matches, or one that matches is not a tensor.
    """
    extra = hidden_state_arguments(model, outputs)
    computed = model(**arguments, **extra)
    if extra:
        computed = {**computed, LAST_HIDDEN_STATE: computed["hidden_states"][-1]}
    return select_outputs(computed, outputs)
