"""Structural pruning: remove heads, neurons and layers, and load a model that was pruned."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_compression.architectures import (
    count_heads,
    count_neurons,
    find_layout,
    get_head_size,
    get_layers,
    get_linear,
    name_modules,
)
from fastserve_compression.checkpoint_io import StoredTensors
from fastserve_core.errors import OptionError
from fastserve_core.models import list_components, register_component

COMPONENT_KIND = "pruned"
HEAD_COUNTS = ("num_attention_heads", "n_heads")
"""Attributes of attention modules that hold the number of heads; no module computes with them."""


def drop_layers(model: Any, indices: Sequence[int], uncompressed: Collection[str] = ()) -> None:
    """Remove whole layers from the model and its config (Sajjad et al. 2023).

    Args:
        model: Model of a known family, changed in place.
        indices: Layers to remove, from 0.
        uncompressed: Names of modules that stay as they are.

    Raises:
        OptionError: An index does not exist, no layer would remain, or a layer has a module that stays.
    """
    layers = get_layers(model)
    if invalid := sorted(index for index in indices if index >= len(layers)):
        raise OptionError(
            f"compress.prune.layers: layer {invalid[0]} does not exist, the indices are 0 to {len(layers) - 1}"
        )
    if len(indices) == len(layers):
        raise OptionError("compress.prune.layers lists every layer: at least one must remain")
    names = name_modules(model)
    for index in indices:
        if kept := sorted({names[module] for module in layers[index].modules()}.intersection(uncompressed)):
            raise OptionError(f"layer {index} cannot be removed: the task excludes {kept[0]} from compression")
    remaining = [index for index in range(len(layers)) if index not in indices]
    parent, _, name = find_layout(model).layers.rpartition(".")
    setattr(model.base_model.get_submodule(parent), name, nn.ModuleList(layers[index] for index in remaining))
    for index, layer in enumerate(get_layers(model)):
        modules: list[Any] = [module for module in layer.modules() if hasattr(module, "layer_idx")]
        for module in modules:
            module.layer_idx = index  # a decoder's cache is indexed by it
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[index] for index in remaining]
    model.config.num_hidden_layers = len(remaining)


def cut_heads(model: Any, kept: Sequence[Sequence[int]]) -> None:
    """Keep only these heads in each layer.

    Args:
        model: Model of a known family, changed in place.
        kept: Indices of the heads to keep, by layer.
    """
    heads = find_layout(model).heads
    if heads is None:
        return
    for layer, indices in zip(get_layers(model), kept, strict=True):
        size = get_head_size(layer, heads)
        columns = (torch.tensor(indices).unsqueeze(1) * size + torch.arange(size)).flatten()
        for name in heads.input_projections:
            _select(get_linear(layer, name), columns, of_inputs=False)
        _select(get_linear(layer, heads.output_projection), columns, of_inputs=True)


def cut_neurons(model: Any, kept: Sequence[Sequence[int]]) -> None:
    """Keep only these feed-forward neurons in each layer.

    Args:
        model: Model of a known family, changed in place.
        kept: Indices of the neurons to keep, by layer.
    """
    layout = find_layout(model)
    for layer, indices in zip(get_layers(model), kept, strict=True):
        for name in layout.input_projections:
            _select(get_linear(layer, name), torch.tensor(indices), of_inputs=False)
        _select(get_linear(layer, layout.output_projection), torch.tensor(indices), of_inputs=True)


def record_sizes(model: Any) -> None:
    """Write the remaining sizes into the model's modules and its config.

    If all layers are equal and have all heads, the config's own width describes them and any loader reads it. Otherwise
    the config gets a component.
    """
    _update_head_counts(model)
    config, heads, neurons = model.config, count_heads(model), count_neurons(model)
    setattr(config, find_layout(model).width, max(neurons))
    is_uniform = len(set(neurons)) == 1 and all(count == config.num_attention_heads for count in heads)
    if not is_uniform or any(component["kind"] == COMPONENT_KIND for component in list_components(config)):
        register_component(config, {"kind": COMPONENT_KIND, **({"heads": heads} if heads else {}), "neurons": neurons})


def restore(model: Any, folder: Path, component: Mapping[str, Any]) -> Any:
    """Resize the layers of a loaded model to the tensors that its folder holds.

    Args:
        model: Model that transformers loaded from the folder, changed in place.
        folder: Folder with the safetensors files.
        component: Entry of the config. Sizes are read from the tensors; the entry only informs readers.

    Returns:
        The model.
    """
    layout, stored = find_layout(model), StoredTensors(folder, model.base_model_prefix)
    heads = (*layout.heads.input_projections, layout.heads.output_projection) if layout.heads is not None else ()
    names = {id(module): name for name, module in model.named_modules()}
    for layer in get_layers(model):
        for path in (*heads, *layout.input_projections, layout.output_projection):
            module = get_linear(layer, path)
            name = names[id(module)]
            weight = stored.get(f"{name}.weight")
            if weight.shape != module.weight.shape:
                _replace(module, weight, stored.find(f"{name}.bias"))
    _update_head_counts(model)
    return model


def _update_head_counts(model: Any) -> None:
    heads = find_layout(model).heads
    if heads is None:
        return
    for layer, count in zip(get_layers(model), count_heads(model), strict=True):
        attention: Any = layer.get_submodule(heads.module)
        for name in (name for name in HEAD_COUNTS if hasattr(attention, name)):
            setattr(attention, name, count)
        if hasattr(attention, "all_head_size"):
            attention.all_head_size = count * get_head_size(layer, heads)


def _select(module: Any, indices: Tensor, of_inputs: bool) -> None:
    """Keep some inputs or outputs of a linear layer; the weight of ``Conv1D`` is transposed."""
    dimension = int(of_inputs) if isinstance(module, nn.Linear) else int(not of_inputs)
    weight = module.weight.detach().index_select(dimension, indices)
    bias = module.bias
    if bias is not None and not of_inputs:
        bias = bias.detach()[indices]
    _replace(module, weight, bias)


def _replace(module: Any, weight: Tensor, bias: Tensor | None) -> None:
    """Set weights, which may have other shapes, in the linear layer's own dtype."""
    for name, tensor in (("weight", weight), ("bias", bias)):
        old = getattr(module, name)
        if tensor is not None:
            setattr(module, name, nn.Parameter(tensor.detach().to(old).contiguous(), requires_grad=old.requires_grad))
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    else:
        module.nx, module.nf = weight.shape
