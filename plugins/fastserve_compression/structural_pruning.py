"""Cutting heads, neurons and layers out of a model for good, and loading a model that was cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_compression.architectures import head_counts, head_size, layers_of, layout_of, linear, neuron_counts
from fastserve_compression.checkpoint_io import StoredTensors
from fastserve_core.errors import InvalidOption
from fastserve_core.models import components_of, register_component

PART = "pruned"
HEAD_COUNTS = ("num_attention_heads", "n_heads")
"""How attention modules call the number of their heads; none computes with it."""


def drop_layers(model: Any, numbers: Sequence[int]) -> None:
    """Take whole layers out of the model and its config (Sajjad et al. 2023).

    Raises ``InvalidOption`` for a number that no layer has, and when no layer would be left.
    """
    layers = layers_of(model)
    if strangers := sorted(number for number in numbers if number >= len(layers)):
        raise InvalidOption(
            f"compress.prune.layers: no layer is numbered {strangers[0]}, they go from 0 to {len(layers) - 1}"
        )
    if len(numbers) == len(layers):
        raise InvalidOption("compress.prune.layers names every layer: one has to stay")
    kept = [number for number in range(len(layers)) if number not in numbers]
    parent, _, name = layout_of(model).layers.rpartition(".")
    setattr(model.base_model.get_submodule(parent), name, nn.ModuleList(layers[number] for number in kept))
    for place, layer in enumerate(layers_of(model)):
        modules: list[Any] = [module for module in layer.modules() if hasattr(module, "layer_idx")]
        for module in modules:
            module.layer_idx = place  # a decoder's cache is by it
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[number] for number in kept]
    model.config.num_hidden_layers = len(kept)


def cut_heads(model: Any, kept: Sequence[Sequence[int]]) -> None:
    """Leave these heads in each layer."""
    heads = layout_of(model).heads
    if heads is None:
        return
    for layer, numbers in zip(layers_of(model), kept, strict=True):
        size = head_size(layer, heads)
        places = (torch.tensor(numbers).unsqueeze(1) * size + torch.arange(size)).flatten()
        for name in heads.into:
            _keep(linear(layer, name), places, of_inputs=False)
        _keep(linear(layer, heads.out), places, of_inputs=True)


def cut_neurons(model: Any, kept: Sequence[Sequence[int]]) -> None:
    """Leave these feed-forward neurons in each layer."""
    layout = layout_of(model)
    for layer, numbers in zip(layers_of(model), kept, strict=True):
        for name in layout.into:
            _keep(linear(layer, name), torch.tensor(numbers), of_inputs=False)
        _keep(linear(layer, layout.out), torch.tensor(numbers), of_inputs=True)


def record_sizes(model: Any) -> None:
    """Have the model's modules and its config tell what is left.

    Equal layers with all heads are said by the config's own width, which any loader reads. Others get a part.
    """
    _update_head_counts(model)
    config, heads, neurons = model.config, head_counts(model), neuron_counts(model)
    setattr(config, layout_of(model).width, max(neurons))
    ordinary = len(set(neurons)) == 1 and all(count == config.num_attention_heads for count in heads)
    if not ordinary or any(one["kind"] == PART for one in components_of(config)):
        register_component(config, {"kind": PART, **({"heads": heads} if heads else {}), "neurons": neurons})


def restore(model: Any, folder: Path, about: Mapping[str, Any]) -> Any:
    """Give a model that was loaded from the folder the layers that the folder's weights hold.

    The sizes are those of the tensors; what the config tells of them is for readers.
    """
    layout, stored = layout_of(model), StoredTensors(folder, model.base_model_prefix)
    heads = (*layout.heads.into, layout.heads.out) if layout.heads is not None else ()
    names = {id(module): name for name, module in model.named_modules()}
    for layer in layers_of(model):
        for one in (*heads, *layout.into, layout.out):
            module = linear(layer, one)
            name = names[id(module)]
            weight = stored.get(f"{name}.weight")
            if weight.shape != module.weight.shape:
                _replace(module, weight, stored.find(f"{name}.bias"))
    _update_head_counts(model)
    return model


def _update_head_counts(model: Any) -> None:
    heads = layout_of(model).heads
    if heads is None:
        return
    for layer, count in zip(layers_of(model), head_counts(model), strict=True):
        attention: Any = layer.get_submodule(heads.module)
        for name in (name for name in HEAD_COUNTS if hasattr(attention, name)):
            setattr(attention, name, count)
        if hasattr(attention, "all_head_size"):
            attention.all_head_size = count * head_size(layer, heads)


def _keep(module: Any, places: Tensor, of_inputs: bool) -> None:
    """Leave some inputs or outputs of a linear layer; ``Conv1D`` has its weight the other way round."""
    dimension = int(of_inputs) if isinstance(module, nn.Linear) else int(not of_inputs)
    weight = module.weight.detach().index_select(dimension, places)
    bias = module.bias
    if bias is not None and not of_inputs:
        bias = bias.detach()[places]
    _replace(module, weight, bias)


def _replace(module: Any, weight: Tensor, bias: Tensor | None) -> None:
    """Other weights, perhaps of other shapes, in a linear layer's own number format."""
    for name, tensor in (("weight", weight), ("bias", bias)):
        old = getattr(module, name)
        if tensor is not None:
            setattr(module, name, nn.Parameter(tensor.detach().to(old).contiguous(), requires_grad=old.requires_grad))
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    else:
        module.nx, module.nf = weight.shape
