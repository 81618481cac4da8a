"""Weight masks: a fraction of each matrix, or N of every M consecutive weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_compression import PATTERN_REGEX, UNSTRUCTURED
from fastserve_compression.architectures import get_layers, name_modules
from fastserve_core.errors import ModelError


def find_masked_weights(model: Any, pattern: str, uncompressed: Collection[str] = ()) -> dict[str, nn.Parameter]:
    """Return the weights of the layers' linear modules by name; embeddings and the head are left out.

    Args:
        model: Model of a known family.
        pattern: ``unstructured`` or N:M.
        uncompressed: Names of modules that stay as they are.

    Raises:
        ModelError: The number of inputs of a matrix is not a multiple of M.
    """
    weights: dict[str, nn.Parameter] = {}
    full_names = name_modules(model)
    for name, module in get_layers(model).named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 2 and full_names[module] not in uncompressed:
            weights[name] = weight
            width = _transpose_to_outputs(module, weight).shape[1]
            if pattern != UNSTRUCTURED and width % _parse_pattern(pattern)[1]:
                raise ModelError(f"compress.prune.pattern={pattern} does not fit {name}, which has {width} inputs")
    return weights


def apply_mask(model: Any, scores: dict[str, Tensor], sparsity: float, pattern: str) -> None:
    """Set the weights with the lowest scores to zero, separately in each matrix.

    Args:
        model: Model of a known family, changed in place.
        scores: Importance of each weight, by module name, in the weight's shape.
        sparsity: Fraction to set to zero, for the unstructured pattern.
        pattern: ``unstructured`` or N:M.
    """
    modules = dict(get_layers(model).named_modules())
    with torch.no_grad():
        for name, score in scores.items():
            weight: Any = modules[name].weight
            by_output = _transpose_to_outputs(modules[name], score)
            keep = (
                select_top_fraction(by_output, 1 - sparsity)
                if pattern == UNSTRUCTURED
                else select_n_of_m(by_output, *_parse_pattern(pattern))
            )
            weight.mul_(_transpose_to_outputs(modules[name], keep))


def select_top_fraction(scores: Tensor, share: float) -> Tensor:
    """Return a mask that is true for the highest fraction of the scores; ties go to the first."""
    order = scores.flatten().argsort(descending=True, stable=True)
    keep = torch.zeros(scores.numel(), dtype=torch.bool)
    keep[order[: round(share * scores.numel())]] = True
    return keep.view_as(scores)


def select_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """Return a mask (rows, columns) that is true for the n highest of every m consecutive scores in a row."""
    order = scores.reshape(len(scores), -1, m).argsort(dim=-1, descending=True, stable=True)
    keep = torch.zeros(order.shape, dtype=torch.bool).scatter_(-1, order[..., :n], True)
    return keep.flatten(1)


def _transpose_to_outputs(module: nn.Module, weight: Tensor) -> Tensor:
    """Return the matrix with one row per output; the weight of ``Conv1D`` is transposed."""
    return weight if isinstance(module, nn.Linear) else weight.T


def _parse_pattern(pattern: str) -> tuple[int, int]:
    match = PATTERN_REGEX.fullmatch(pattern)
    assert match is not None  # the options have checked it
    return int(match[1]), int(match[2])
