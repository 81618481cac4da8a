"""Zeros among the weights of linear layers: a share of each matrix, or N of each M that follow each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastserve_compression import PATTERN, UNSTRUCTURED
from fastserve_compression.architectures import layers_of
from fastserve_core.errors import InvalidModel


def masked_weights(model: Any, pattern: str) -> dict[str, nn.Parameter]:
    """The matrices of the layers' linear layers, by name; embeddings and the head keep all of theirs.

    Raises ``InvalidModel`` when the pattern does not fit into one.
    """
    found: dict[str, nn.Parameter] = {}
    for name, module in layers_of(model).named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 2:
            found[name] = weight
            width = _by_output(module, weight).shape[1]
            if pattern != UNSTRUCTURED and width % _numbers(pattern)[1]:
                raise InvalidModel(f"compress.prune.pattern={pattern} does not fit {name}, which has {width} inputs")
    return found


def apply_mask(model: Any, scores: dict[str, Tensor], sparsity: float, pattern: str) -> None:
    """Set the weights of the lowest scores to zero, in each matrix for itself."""
    modules = dict(layers_of(model).named_modules())
    with torch.no_grad():
        for name, score in scores.items():
            weight: Any = modules[name].weight
            by_output = _by_output(modules[name], score)
            keep = (
                top_fraction(by_output, 1 - sparsity)
                if pattern == UNSTRUCTURED
                else n_of_m(by_output, *_numbers(pattern))
            )
            weight.mul_(_by_output(modules[name], keep))


def top_fraction(scores: Tensor, share: float) -> Tensor:
    """True for the highest share of the scores; the first among equals."""
    order = scores.flatten().argsort(descending=True, stable=True)
    keep = torch.zeros(scores.numel(), dtype=torch.bool)
    keep[order[: round(share * scores.numel())]] = True
    return keep.view_as(scores)


def n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """True for the n highest of each m scores that follow each other in a row."""
    order = scores.reshape(len(scores), -1, m).argsort(dim=-1, descending=True, stable=True)
    keep = torch.zeros(order.shape, dtype=torch.bool).scatter_(-1, order[..., :n], True)
    return keep.flatten(1)


def _by_output(module: nn.Module, weight: Tensor) -> Tensor:
    """The matrix with a row for each output; ``Conv1D`` has its weight the other way round."""
    return weight if isinstance(module, nn.Linear) else weight.T


def _numbers(pattern: str) -> tuple[int, int]:
    found = PATTERN.fullmatch(pattern)
    assert found is not None  # the options have checked it
    return int(found[1]), int(found[2])
