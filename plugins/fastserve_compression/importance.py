"""What the loss would lose: activation x gradient of heads and neurons, weight x gradient of single weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_compression.architectures import head_counts, layers_of, layout_of, linear, neuron_counts
from fastserve_core.errors import InvalidModel

Batch = Mapping[str, Tensor]


class TaylorScores:
    """Sums |activation x gradient| over the rows that go into a linear layer, by groups of its inputs.

    Within a row the products are summed before the sign is dropped, over the tokens and over the group: this is
    the first-order change of the row's loss when the group is cut out (Michel et al. 2019, Molchanov et al. 2019).
    """

    def __init__(self, module: nn.Module, groups: int) -> None:
        self.total = torch.zeros(groups, dtype=torch.float64)
        self.handle = module.register_forward_pre_hook(self._watch)

    def _watch(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        values = given[0].detach()
        given[0].register_hook(lambda gradient: self._add(values * gradient))

    def _add(self, products: Any) -> None:
        """Products of shape (rows, tokens, width)."""
        rows = products.sum(dim=1).unflatten(-1, (len(self.total), -1)).sum(dim=-1)
        self.total += rows.abs().sum(dim=0)


def unit_importance(
    model: Any, batches: Iterable[Batch], tell: Callable[[int], None] = lambda _: None
) -> tuple[list[list[float]], list[list[float]]]:
    """The scores of heads and of neurons by layer, over all rows; no heads for families that keep theirs.

    Heads are divided by the length of their layer's vector (Michel et al. 2019), neurons are compared as they are.
    """
    layout, layers = layout_of(model), layers_of(model)
    heads: list[TaylorScores] = []
    if layout.heads is not None:
        out = layout.heads.out
        heads = [TaylorScores(linear(one, out), count) for one, count in zip(layers, head_counts(model), strict=True)]
    counts = neuron_counts(model)
    neurons = [TaylorScores(linear(one, layout.out), count) for one, count in zip(layers, counts, strict=True)]
    with gradients_of(model, ()):
        model.enable_input_require_grads()  # gradients flow through the layers, and no weight needs one
        for number, batch in enumerate(batches):
            _loss(model, batch).backward()
            tell(number)
        model.disable_input_require_grads()
    for one in (*heads, *neurons):
        one.handle.remove()
    _check_finite(one.total for one in (*heads, *neurons))
    normed = [one.total / one.total.norm().clamp_min(torch.finfo(torch.float64).tiny) for one in heads]
    return [one.tolist() for one in normed], [one.total.tolist() for one in neurons]


def weight_importance(
    model: Any, weights: Mapping[str, nn.Parameter], batches: Iterable[Batch], tell: Callable[[int], None]
) -> dict[str, Tensor]:
    """|weight x gradient| of each of these weights, summed over the batches."""
    found = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with gradients_of(model, list(weights.values())):
        for number, batch in enumerate(batches):
            _loss(model, batch).backward()
            for name, weight in weights.items():
                if weight.grad is not None:
                    found[name] += (weight.detach() * weight.grad).abs()
                    weight.grad = None
            tell(number)
    _check_finite(found.values())
    return found


@contextmanager
def gradients_of(model: nn.Module, wanted: Sequence[nn.Parameter]) -> Iterator[None]:
    """Have these parameters alone get a gradient."""
    before = [(one, one.requires_grad) for one in model.parameters()]
    chosen = {id(one) for one in wanted}
    for one, _ in before:
        one.requires_grad_(id(one) in chosen)
    try:
        yield
    finally:
        for one, required in before:
            one.requires_grad_(required)


def _loss(model: Any, batch: Batch) -> Any:
    """The sum of the rows' losses; the model gives their mean."""
    return model(**batch).loss * len(batch["input_ids"])


def _check_finite(scores: Iterable[Tensor]) -> None:
    if not all(bool(torch.isfinite(one).all()) for one in scores):
        raise InvalidModel("the model's gradients are not finite: what matters least cannot be told")
