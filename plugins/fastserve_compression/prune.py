"""The pruner's process: load the model, see what matters least over training rows, cut it out, write the rest."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastserve_compression import PruneOptions, half_precision, quantized_embedding
from fastserve_compression.architectures import layers_of, layout_of
from fastserve_compression.checkpoint_io import write_model
from fastserve_compression.importance import Batch, unit_importance, weight_importance
from fastserve_compression.masks import apply_mask, masked_weights
from fastserve_compression.sparsity_allocation import allocate
from fastserve_compression.structural_pruning import PART, cut_heads, cut_neurons, drop_layers, record_sizes
from fastserve_core.data import load_dataset
from fastserve_core.errors import InvalidModel, InvalidOption
from fastserve_core.events import Progress
from fastserve_core.inference import length_batches
from fastserve_core.models import components_of
from fastserve_core.processes import child_main, event_writer
from fastserve_core.tasks import Task, load_task

BATCH = 16
NEURON_BLOCK = 16
"""A layer keeps a multiple of it, which the matrix units of processors are filled by."""
MIN_NEURON_DIVISOR = 10
"""A layer keeps a tenth of its neurons or more."""

ProgressCallback = Callable[[Sequence[Batch], str, int], None]


def prune(
    model: str,
    data: str,
    task: tuple[str, Mapping[str, Any], Sequence[str]],
    draft: str,
    options: Mapping[str, Any],
    seed: int,
    events: str,
) -> None:
    """Write the pruned model into the draft folder."""
    emit, source, chosen = event_writer(events), Path(model), load_task(*task)
    torch.manual_seed(seed)
    built: Any = chosen.build(source).eval()
    number_format = built.dtype
    built.float()
    wanted = PruneOptions(**options)
    check(built, wanted)
    drop_layers(built, wanted.layers)
    batches = training_batches(chosen, built, source, data, wanted.rows, seed)

    def tell(found: Sequence[Batch], what: str, number: int) -> None:
        emit(Progress(what, number + 1, len(found)))

    if wanted.head_ratio or wanted.neuron_ratio:
        cut(built, batches, wanted, tell)
    record_sizes(built)
    if wanted.masks:
        weights = masked_weights(built, wanted.pattern)
        scores = weight_importance(built, weights, batches, partial(tell, batches, "weighing weights"))
        apply_mask(built, scores, wanted.sparsity, wanted.pattern)
    write_model(built.to(number_format), source, Path(draft))


def check(model: Any, options: PruneOptions) -> None:
    """Refuse what cannot be cut: ``InvalidModel`` for the model, ``InvalidOption`` for what is asked of it."""
    layout = layout_of(model)
    strangers = [
        one["kind"]
        for one in components_of(model.config)
        if one["kind"] not in (PART, quantized_embedding.PART, half_precision.PART)
    ]
    if strangers:
        raise InvalidModel(
            f"the model has parts of the kind '{strangers[0]}', which prune cannot cut around: prune first, "
            "then train with them"
        )
    if options.head_ratio and layout.heads is None:
        raise InvalidOption(f"compress.prune.head_ratio: the heads of a {model.config.model_type} stay; set it to 0")


def training_batches(task: Task, model: Any, source: Path, data: str, rows: int, seed: int) -> list[dict[str, Tensor]]:
    """Labelled training rows as tensors, in batches of like lengths."""
    everything = load_dataset(Path(data)).rows("train")
    sample = random.Random(seed).sample(everything, min(rows, len(everything)))
    examples = task.examples(task.encoder(source)(sample), str(seed))
    takes = set(signature(model.forward).parameters)
    collated = (task.collate([examples[place] for place in places], True) for places in length_batches(examples, BATCH))
    return [{name: torch.from_numpy(one) for name, one in arrays.items() if name in takes} for arrays in collated]


def cut(model: Any, batches: Sequence[Batch], options: PruneOptions, tell: ProgressCallback) -> None:
    """Cut out the heads and the neurons that matter least; raises ``InvalidModel`` where all are at their floor."""
    heads, neurons = unit_importance(model, batches, partial(tell, batches, "weighing heads and neurons"))
    kept_heads = allocate(heads, options.head_ratio, [1] * len(heads))
    floors = [max(NEURON_BLOCK, -(-len(one) // MIN_NEURON_DIVISOR)) for one in neurons]
    kept_neurons = allocate(neurons, options.neuron_ratio, floors, NEURON_BLOCK, options.uniform)
    if not options.layers and not options.masks and _size(kept_heads, kept_neurons) == _size(heads, neurons):
        raise InvalidModel(
            f"nothing can be cut out of the model's {len(layers_of(model))} layers with compress.prune."
            f"head_ratio={options.head_ratio} and neuron_ratio={options.neuron_ratio}: "
            f"each keeps a head and {NEURON_BLOCK} neurons or more"
        )
    cut_heads(model, kept_heads)
    cut_neurons(model, kept_neurons)


def _size(*scores: Sequence[Sequence[Any]]) -> int:
    return sum(len(layer) for one in scores for layer in one)


if __name__ == "__main__":
    child_main(prune)
