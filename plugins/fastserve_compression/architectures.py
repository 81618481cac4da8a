"""Where each family of models keeps its layers, and in them the linear layers that pruning makes smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fastserve_core.errors import InvalidModel, did_you_mean


@dataclass(frozen=True)
class AttentionModules:
    """The attention of a layer: the module that counts its heads, the projections into them, and the one out."""

    module: str
    into: tuple[str, ...]
    out: str


@dataclass(frozen=True)
class Layout:
    """Names in the base model (``layers``), in a layer (the rest), and in the config (``width``)."""

    layers: str
    into: tuple[str, ...]
    """What makes a neuron's value, and ``out`` what reads it."""
    out: str
    width: str
    heads: AttentionModules | None = None


BERT = Layout(
    layers="encoder.layer",
    into=("intermediate.dense",),
    out="output.dense",
    width="intermediate_size",
    heads=AttentionModules(
        module="attention.self",
        into=("attention.self.query", "attention.self.key", "attention.self.value"),
        out="attention.output.dense",
    ),
)
DISTILBERT = Layout(
    layers="transformer.layer",
    into=("ffn.lin1",),
    out="ffn.lin2",
    width="hidden_dim",
    heads=AttentionModules(
        module="attention",
        into=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        out="attention.out_lin",
    ),
)
LLAMA = Layout(
    layers="layers",
    into=("mlp.gate_proj", "mlp.up_proj"),
    out="mlp.down_proj",
    width="intermediate_size",
)
GPT2 = Layout(layers="h", into=("mlp.c_fc",), out="mlp.c_proj", width="n_inner")
FAMILIES = {
    **dict.fromkeys(("bert", "camembert", "electra", "roberta", "xlm-roberta"), BERT),
    "distilbert": DISTILBERT,
    "gpt2": GPT2,
    **dict.fromkeys(("llama", "mistral", "qwen2"), LLAMA),
}
"""By ``model_type`` in the config. Others may share a layout's names and still compute something else."""


def layout_of(model: Any) -> Layout:
    """The layout of the model's family; raises ``InvalidModel`` for one that is not known."""
    family = model.config.model_type
    if family not in FAMILIES:
        raise InvalidModel(f"prune does not know where a {family} has its layers{did_you_mean(family, FAMILIES)}")
    return FAMILIES[family]


def layers_of(model: Any) -> nn.ModuleList:
    """The layers of a model of a known family."""
    layers: nn.ModuleList = model.base_model.get_submodule(layout_of(model).layers)
    return layers


def head_size(layer: nn.Module, heads: AttentionModules) -> int:
    """The width of one head; pruning does not change it."""
    size: Any = layer.get_submodule(heads.module).attention_head_size
    return int(size)


def head_counts(model: Any) -> list[int]:
    """The number of heads of each layer; empty for a family whose heads are not pruned."""
    heads = layout_of(model).heads
    if heads is None:
        return []
    return [linear(layer, heads.into[0]).weight.shape[0] // head_size(layer, heads) for layer in layers_of(model)]


def neuron_counts(model: Any) -> list[int]:
    """The number of feed-forward neurons of each layer."""
    layout = layout_of(model)
    return [input_dim(linear(layer, layout.out)) for layer in layers_of(model)]


def linear(layer: nn.Module, name: str) -> Any:
    """A linear layer, or GPT-2's ``Conv1D``, by its name in the layer."""
    return layer.get_submodule(name)


def input_dim(module: Any) -> int:
    """How many numbers a linear layer reads."""
    return int(module.nx if hasattr(module, "nx") else module.in_features)
