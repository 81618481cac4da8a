"""Contrastive training of a classifier from few rows: a mean over the words as its text vector, and its loss.

The layer that is added to an encoder is an ordinary one, whose first weights average the words: the model stays one
of transformers' own classes, which every tool loads, exports and quantizes.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import list_weight_files, read_config
from fastserve_core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILIES = ("bert", "camembert", "electra", "roberta", "xlm-roberta")
"""By ``model_type``: encoders with BERT's modules, whose classifiers read the first token."""
MEAN_WEIGHT = 16.0
"""The weight of the mean in the added layer, beside the first token, which the residual connection adds."""
POOLER_SCALE = 0.5
"""The first weights of the layer before the head; numbers of a deviation of 1 pass its tanh nearly linearly."""
TEMPERATURE = 0.1
"""Of the similarities in the contrastive loss."""
HAS_HIDDEN_STATES = "output_hidden_states"


def check_family(folder: Path) -> None:
    """Raise ``ModelError`` if a model folder is not of a family that the layer can be added to."""
    family = read_config(folder).get("model_type")
    if family not in FAMILIES:
        raise ModelError(
            f"task.few_shot needs an encoder of the type {', '.join(FAMILIES)}, and {folder} is of the type {family}: "
            "choose another model, or set task.few_shot=false"
        )


def prepare_few_shot(model: Any, folder: Path, is_new: bool) -> None:
    """Make a model return its text vectors; one whose head is new gets a layer that averages the words.

    Args:
        model: The classifier of the folder, changed in place.
        folder: The folder that it was built from.
        is_new: Whether its head is new. A checkpoint that already is a classifier, or has no weights, keeps its layers.
    """
    check_family(folder)
    setattr(model.config, HAS_HIDDEN_STATES, True)
    if is_new:
        add_mean_layer(model)


def has_new_head(folder: Path, head: str) -> bool:
    """Return whether the model of a folder is a pretrained one that was not a classifier before.

    Args:
        folder: The folder.
        head: How the name of the class of a classifier ends.
    """
    is_classifier = str((read_config(folder).get("architectures") or [""])[0]).endswith(head)
    return bool(list_weight_files(folder)) and not is_classifier


def finish_few_shot(model: Any) -> None:
    """Remove the output of text vectors from the settings of a trained model."""
    setattr(model.config, HAS_HIDDEN_STATES, False)


def add_mean_layer(model: Any) -> None:
    """Add an encoder layer whose first token is the mean over all tokens, normalized, and pass it on to the head.

    Args:
        model: A classifier of one of ``FAMILIES``, changed in place.
    """
    import torch

    layers = model.base_model.encoder.layer
    layer = copy.deepcopy(layers[-1])
    attention, output = layer.attention, layer.output
    with torch.no_grad():
        for linear in (attention.self.query, output.dense):  # attends to all tokens alike; adds nothing
            _set_linear(linear, torch.zeros_like(linear.weight))
        identity = torch.eye(model.config.hidden_size)
        _set_linear(attention.self.value, identity)
        _set_linear(attention.output.dense, MEAN_WEIGHT * identity)
        for norm in (attention.output.LayerNorm, output.LayerNorm):
            norm.weight.fill_(1.0)
            norm.bias.zero_()
        for linear in _find_poolers(model):
            _set_linear(linear, POOLER_SCALE * identity)
    if hasattr(attention.self, "layer_idx"):
        attention.self.layer_idx = len(layers)
    layers.append(layer)
    model.config.num_hidden_layers = len(layers)


def _set_linear(linear: nn.Linear, weight: Tensor) -> None:
    linear.weight.copy_(weight)
    linear.bias.zero_()


def _find_poolers(model: Any) -> list[nn.Linear]:
    """Return the square linear layers between the last encoder layer and the head."""
    from torch import nn

    width = model.config.hidden_size
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and (module.in_features, module.out_features) == (width, width)
        and ".encoder." not in f".{name}"
        and "embeddings" not in name
    ]


def contrastive_loss(hidden: Tensor, labels: Tensor) -> Tensor:
    """Return the supervised contrastive loss of Khosla et al. 2020, summed over the rows that have a positive.

    Args:
        hidden: The last hidden state, of shape (rows, tokens, width); the vector of a row is that of its first token.
        labels: The numbers of the labels, of shape (rows,); negative without.
    """
    import torch
    from torch.nn import functional

    vectors = functional.normalize(hidden[:, 0].float(), dim=-1)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positives = (labels[:, None] == labels) & (labels >= 0) & ~itself
    similarities = (vectors @ vectors.T / TEMPERATURE).masked_fill(itself, float("-inf"))
    logs = (similarities - similarities.logsumexp(dim=1, keepdim=True)).masked_fill(~positives, 0.0)
    return -(logs.sum(dim=1) / positives.sum(dim=1).clamp_min(1)).sum()
