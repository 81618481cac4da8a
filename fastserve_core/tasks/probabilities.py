"""Probabilities of logits, as NumPy computes them.

SciPy's ``log_softmax`` takes twenty times as long for the few logits of a short request, and its import longer than the
start of a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the probabilities over the last axis, in the dtype of the logits."""
    import numpy as np

    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: np.ndarray[Any, Any] = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the logarithms of the probabilities over the last axis, in the dtype of the logits."""
    import numpy as np

    shifted = logits - logits.max(axis=-1, keepdims=True)
    logarithms: np.ndarray[Any, Any] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logarithms
