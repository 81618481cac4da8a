"""Layouts of model families: paths of the layers and of the linear modules that pruning resizes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from fastserve_core.errors import ModelError


@dataclass(frozen=True)
class AttentionModules:
    """Paths of a layer's attention modules.

    Attributes:
        module: Module that stores the number of heads.
        input_projections: Query, key and value projections.
        output_projection: Output projection.
    """

    module: str
    input_projections: tuple[str, ...]
    output_projection: str


@dataclass(frozen=True)
class Layout:
    """Paths of the modules of a family.

    Attributes:
        layers: List of layers in the base model.
        input_projections: Feed-forward projections in a layer whose outputs are the neurons.
        output_projection: Feed-forward projection in a layer that reads the neurons.
        width: Option of the config that holds the number of neurons.
        heads: Attention modules; None if the family's heads are not pruned.
    """

    layers: str
    input_projections: tuple[str, ...]
    output_projection: str
    width: str
    heads: AttentionModules | None = None


BERT = Layout(
    layers="encoder.layer",
    input_projections=("intermediate.dense",),
    output_projection="output.dense",
    width="intermediate_size",
    heads=AttentionModules(
        module="attention.self",
        input_projections=("attention.self.query", "attention.self.key", "attention.self.value"),
        output_projection="attention.output.dense",
    ),
)
DISTILBERT = Layout(
    layers="transformer.layer",
    input_projections=("ffn.lin1",),
    output_projection="ffn.lin2",
    width="hidden_dim",
    heads=AttentionModules(
        module="attention",
        input_projections=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        output_projection="attention.out_lin",
    ),
)
BERT_NEURONS = replace(BERT, heads=None)
"""For families of BERT's names whose heads share a bias or relative positions, which have a size for each head."""
LLAMA = Layout(
    layers="layers",
    input_projections=("mlp.gate_proj", "mlp.up_proj"),
    output_projection="mlp.down_proj",
    width="intermediate_size",
)
GPT2 = Layout(layers="h", input_projections=("mlp.c_fc",), output_projection="mlp.c_proj", width="n_inner")
FAMILIES = {
    **dict.fromkeys(("bert", "camembert", "electra", "roberta", "xlm-roberta"), BERT),
    **dict.fromkeys(("big_bird", "deberta", "deberta-v2", "fnet", "longformer", "mpnet"), BERT_NEURONS),
    "distilbert": DISTILBERT,
    "gpt2": GPT2,
    **dict.fromkeys(("gemma", "llama", "mistral", "qwen2"), LLAMA),
}
"""By ``model_type`` in the config. Other families may share a layout's names and still compute something else."""


def find_layout(model: Any) -> Layout:
    """Return the layout of the model's family.

    Raises:
        ModelError: The family is unknown.
    """
    family = model.config.model_type
    if family not in FAMILIES:
        raise ModelError(f"prune does not support {family} models; it supports {', '.join(sorted(FAMILIES))}")
    return FAMILIES[family]


def get_layers(model: Any) -> nn.ModuleList:
    """Return the layers of a model of a known family."""
    layers: nn.ModuleList = model.base_model.get_submodule(find_layout(model).layers)
    return layers


def name_modules(model: nn.Module) -> dict[nn.Module, str]:
    """Return the names of the model's modules."""
    return {module: name for name, module in model.named_modules()}


def find_resizable_layers(model: Any, uncompressed: Collection[str]) -> tuple[list[bool], list[bool]]:
    """Return for each layer whether all modules with its heads, and all with its neurons, may be changed.

    Args:
        model: Model of a known family.
        uncompressed: Names of modules that stay as they are.
    """
    layout, names = find_layout(model), name_modules(model)
    attention = (*layout.heads.input_projections, layout.heads.output_projection) if layout.heads is not None else ()
    feed_forward = (*layout.input_projections, layout.output_projection)
    heads, neurons = (
        [all(names[get_linear(layer, path)] not in uncompressed for path in paths) for layer in get_layers(model)]
        for paths in (attention, feed_forward)
    )
    return heads, neurons


def get_head_size(layer: nn.Module, heads: AttentionModules) -> int:
    """Return the width of one head, which pruning does not change."""
    size: Any = layer.get_submodule(heads.module).attention_head_size
    return int(size)


def count_heads(model: Any) -> list[int]:
    """Return the number of heads of each layer; empty for a family whose heads are not pruned."""
    heads = find_layout(model).heads
    if heads is None:
        return []
    return [
        get_linear(layer, heads.input_projections[0]).weight.shape[0] // get_head_size(layer, heads)
        for layer in get_layers(model)
    ]


def count_neurons(model: Any) -> list[int]:
    """Return the number of feed-forward neurons of each layer."""
    layout = find_layout(model)
    return [count_inputs(get_linear(layer, layout.output_projection)) for layer in get_layers(model)]


def get_linear(layer: nn.Module, name: str) -> Any:
    """Return a linear layer, or GPT-2's ``Conv1D``, by its path in the layer."""
    return layer.get_submodule(name)


def count_inputs(module: Any) -> int:
    """Return the number of inputs of a linear layer."""
    return int(module.nx if hasattr(module, "nx") else module.in_features)
