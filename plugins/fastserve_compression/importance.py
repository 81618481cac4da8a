"""First-order importance: activation x gradient of heads and neurons, weight x gradient of single weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_compression.architectures import count_heads, count_neurons, find_layout, get_layers, get_linear
from fastserve_core.errors import ModelError
from fastserve_core.tasks import LossOptions, Task

Batch = Mapping[str, Tensor]
BatchLossFunction = Callable[[Any, Batch], Any]


def model_loss(model: Any, batch: Batch) -> Tensor:
    """Return the sum of the rows' losses as the model computes it: their mean, times their number."""
    loss: Tensor = model(**batch).loss * len(batch["input_ids"])
    return loss


def task_loss(task: Task, model: Any, batch: Batch) -> Tensor:
    """Return the sum of the rows' losses as the task computes it."""
    given = batch
    if not task.model_computes_loss:
        given = {name: tensor for name, tensor in batch.items() if name not in task.target_names}
    total, denominator = task.loss(model(**given), batch, LossOptions())
    loss: Tensor = total / denominator * len(batch["input_ids"])
    return loss


class TaylorScores:
    """Sum of |activation x gradient| over the rows that enter a linear layer, by groups of its inputs.

    Within a row the products are summed over the tokens and over the group before the absolute value is taken: this is
    the first-order change of the row's loss when the group is removed (Michel et al. 2019, Molchanov et al. 2019).
    """

    def __init__(self, module: nn.Module, groups: int) -> None:
        """Attach to a linear layer.

        Args:
            module: Linear layer whose inputs have the shape (batch, length, inputs).
            groups: Number of equal groups that the inputs are split into.
        """
        self.total = torch.zeros(groups, dtype=torch.float64)
        self.handle = module.register_forward_pre_hook(self._register)

    def _register(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].detach()
        inputs[0].register_hook(lambda gradient: self._add(values * gradient))

    def _add(self, products: Any) -> None:
        """Add products of shape (batch, length, width)."""
        rows = products.sum(dim=1).unflatten(-1, (len(self.total), -1)).sum(dim=-1)
        self.total += rows.abs().sum(dim=0)


def compute_unit_importance(
    model: Any,
    batches: Iterable[Batch],
    report: Callable[[int], None] = lambda _: None,
    loss: BatchLossFunction = model_loss,
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the scores of heads and of neurons, each by layer.

    Head scores are divided by the norm of their layer's scores (Michel et al. 2019); neuron scores are not normalized.

    Args:
        model: Model of a known family, in evaluation mode.
        batches: Model inputs with labels.
        report: Called with the index of each finished batch.
        loss: Computes the summed loss of the model on a batch.

    Returns:
        Scores of the heads, empty for families whose heads are not pruned, and scores of the neurons.

    Raises:
        ModelError: The gradients are not finite.
    """
    layout, layers = find_layout(model), get_layers(model)
    heads: list[TaylorScores] = []
    if layout.heads is not None:
        out = layout.heads.output_projection
        heads = [
            TaylorScores(get_linear(layer, out), count) for layer, count in zip(layers, count_heads(model), strict=True)
        ]
    counts = count_neurons(model)
    neurons = [
        TaylorScores(get_linear(layer, layout.output_projection), count)
        for layer, count in zip(layers, counts, strict=True)
    ]
    with require_gradients(model, ()):
        model.enable_input_require_grads()  # gradients flow through the layers without any for weights
        for index, batch in enumerate(batches):
            loss(model, batch).backward()
            report(index)
        model.disable_input_require_grads()
    for scores in (*heads, *neurons):
        scores.handle.remove()
    _check_finite(scores.total for scores in (*heads, *neurons))
    tiny = torch.finfo(torch.float64).tiny
    normalized = [scores.total / scores.total.norm().clamp_min(tiny) for scores in heads]
    return [total.tolist() for total in normalized], [scores.total.tolist() for scores in neurons]


def compute_weight_importance(
    model: Any,
    weights: Mapping[str, nn.Parameter],
    batches: Iterable[Batch],
    report: Callable[[int], None],
    loss: BatchLossFunction = model_loss,
) -> dict[str, Tensor]:
    """Return |weight x gradient| of each weight, summed over the batches.

    Args:
        model: Model in evaluation mode.
        weights: Weights to score, by name.
        batches: Model inputs with labels.
        report: Called with the index of each finished batch.
        loss: Computes the summed loss of the model on a batch.

    Raises:
        ModelError: The gradients are not finite.
    """
    scores = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with require_gradients(model, list(weights.values())):
        for index, batch in enumerate(batches):
            loss(model, batch).backward()
            for name, weight in weights.items():
                if weight.grad is not None:
                    scores[name] += (weight.detach() * weight.grad).abs()
                    weight.grad = None
            report(index)
    _check_finite(scores.values())
    return scores


@contextmanager
def require_gradients(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Require gradients for these parameters only, until the context ends."""
    states = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    required_ids = {id(parameter) for parameter in parameters}
    for parameter, _ in states:
        parameter.requires_grad_(id(parameter) in required_ids)
    try:
        yield
    finally:
        for parameter, was_required in states:
            parameter.requires_grad_(was_required)


def _check_finite(scores: Iterable[Tensor]) -> None:
    if not all(bool(torch.isfinite(values).all()) for values in scores):
        raise ModelError("the model's gradients are not finite: importance cannot be computed")
