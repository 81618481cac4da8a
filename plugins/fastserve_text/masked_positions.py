"""The vocabulary's logits at the hidden tokens alone: most of a small masked language model's arithmetic saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_core.tasks import IGNORE_INDEX

if TYPE_CHECKING:
    from torch import Tensor, nn


def masked_positions_only(model: nn.Module) -> nn.Module:
    """The same model; where it is given labels, its head is run only on the tokens that have one.

    The loss is the same. The logits of the tokens are then of shape (hidden, vocabulary), row after row, and in
    fp32 where the weights are not: bf16 is too coarse for a softmax over a vocabulary. It is done by hooks, so
    that the model's class and its files stay those of transformers. A caller that passes the hooks by, as
    peft does, gets the loss from logits at every token.
    """
    gathering = _Gathering()
    model.register_forward_pre_hook(gathering.of_labels, with_kwargs=True)
    base: nn.Module = model.base_model  # type: ignore[assignment]
    base.register_forward_hook(gathering.of_hidden_states)
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    head.register_forward_hook(lambda module, arguments, logits: logits.float())
    return model


class _Gathering:
    """The values that pass from a model's call to its encoder's output within one forward."""

    def __init__(self) -> None:
        self.places: Tensor | None = None

    def of_labels(self, model: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        labels: Tensor | None = named.get("labels")
        self.places = None if labels is None else labels != IGNORE_INDEX
        return arguments, named if labels is None else {**named, "labels": labels[self.places]}

    def of_hidden_states(self, base: nn.Module, arguments: Any, outputs: Any) -> Any:
        places, self.places = self.places, None
        if places is not None:
            outputs.last_hidden_state = outputs.last_hidden_state[places]
        return outputs
