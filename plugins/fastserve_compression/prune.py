"""Child process of ``prune``: estimate importance on training rows, cut, and write the smaller model."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastserve_compression import PruneOptions, half_precision, quantized_embedding
from fastserve_compression.architectures import find_layout, find_resizable_layers, get_layers
from fastserve_compression.checkpoint_io import write_model
from fastserve_compression.importance import (
    Batch,
    BatchLossFunction,
    compute_unit_importance,
    compute_weight_importance,
    model_loss,
    task_loss,
)
from fastserve_compression.masks import apply_mask, find_masked_weights
from fastserve_compression.sparsity_allocation import allocate
from fastserve_compression.structural_pruning import COMPONENT_KIND, cut_heads, cut_neurons, drop_layers, record_sizes
from fastserve_core.data import load_dataset
from fastserve_core.errors import ModelError, OptionError
from fastserve_core.events import Progress
from fastserve_core.inference import length_batches
from fastserve_core.models import list_components
from fastserve_core.processes import child_main, event_writer
from fastserve_core.tasks import Task, load_task

BATCH_SIZE = 16
NEURON_BLOCK = 16
"""Each layer keeps a multiple of this number of neurons, to fill the matrix units of processors."""
MIN_NEURON_DIVISOR = 10
"""Each layer keeps at least a tenth of its neurons."""

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
    """Write the pruned model into the draft folder.

    Args:
        model: Folder of the model.
        data: Folder of the prepared dataset.
        task: Name, options and labels of the task.
        draft: Folder to write.
        options: Values of ``PruneOptions`` by name.
        seed: Seed of the sampled rows.
        events: Path that progress events are written to.
    """
    emit, source, loaded_task = event_writer(events), Path(model), load_task(*task)
    torch.manual_seed(seed)
    settings = PruneOptions(**options)
    built: Any = loaded_task.build(source).eval()
    dtype = built.dtype
    built.float()
    check_model(built, settings)
    uncompressed = loaded_task.find_uncompressed(built)
    check_excluded(built, settings, uncompressed)
    drop_layers(built, settings.layers, uncompressed)
    batches = load_training_batches(loaded_task, built, source, data, settings.rows, seed)

    loss = partial(task_loss, loaded_task)

    def report(all_batches: Sequence[Batch], phase: str, index: int) -> None:
        emit(Progress(phase, index + 1, len(all_batches)))

    if settings.head_ratio or settings.neuron_ratio:
        cut_units(built, batches, settings, report, loss, uncompressed)
    record_sizes(built)
    if settings.has_masks:
        mask_weights(built, batches, settings, report, loss, uncompressed)
    write_model(built.to(dtype), source, Path(draft))


def check_model(model: Any, options: PruneOptions) -> None:
    """Raise an error if the model cannot be pruned with these options.

    Raises:
        ModelError: The family is unknown, or the model has components that pruning does not support.
        OptionError: The family's heads cannot be pruned.
    """
    layout = find_layout(model)
    unknown_kinds = [
        component["kind"]
        for component in list_components(model.config)
        if component["kind"] not in (COMPONENT_KIND, quantized_embedding.COMPONENT_KIND, half_precision.COMPONENT_KIND)
    ]
    if unknown_kinds:
        raise ModelError(
            f"prune does not support models with components of the kind '{unknown_kinds[0]}': prune first, "
            "then train with them"
        )
    if options.head_ratio and layout.heads is None:
        raise OptionError(
            f"compress.prune.head_ratio: heads of {model.config.model_type} models cannot be pruned; set it to 0"
        )


def check_excluded(model: Any, options: PruneOptions, uncompressed: Collection[str]) -> None:
    """Refuse ``uniform`` if some layers cannot be cut, because they have modules that stay as they are.

    Raises:
        OptionError: The options cut all layers alike.
    """
    can_be_cut = find_resizable_layers(model, uncompressed)[1]
    if options.uniform and options.neuron_ratio and not all(can_be_cut):
        raise OptionError(
            f"compress.prune.uniform=true cuts all layers alike, but the task excludes modules of layer "
            f"{can_be_cut.index(False)} from compression: set it to false"
        )


def load_training_batches(
    task: Task, model: Any, source: Path, data: str, rows: int, seed: int
) -> list[dict[str, Tensor]]:
    """Return a sample of labelled training rows as tensors, in batches of similar lengths."""
    all_rows = load_dataset(Path(data)).rows("train")
    sample = random.Random(seed).sample(all_rows, min(rows, len(all_rows)))
    examples = task.examples(task.encoder(source)(sample), str(seed))
    parameters = {*signature(model.forward).parameters, *task.target_names}
    batches = (
        task.collate([examples[index] for index in indices], True) for indices in length_batches(examples, BATCH_SIZE)
    )
    return [
        {name: torch.from_numpy(array) for name, array in arrays.items() if name in parameters} for arrays in batches
    ]


def cut_units(
    model: Any,
    batches: Sequence[Batch],
    options: PruneOptions,
    report: ProgressCallback,
    loss: BatchLossFunction = model_loss,
    uncompressed: Collection[str] = (),
) -> None:
    """Remove the least important heads and neurons.

    Args:
        model: Model of a known family, changed in place.
        batches: Model inputs with labels.
        options: Options of the plugin.
        report: Called with the batches, the name of the phase and the index of each finished batch.
        loss: Computes the summed loss of the model on a batch.
        uncompressed: Names of modules that stay as they are.

    Raises:
        ModelError: Every layer is at its minimum already.
    """
    heads, neurons = compute_unit_importance(
        model, batches, partial(report, batches, "scoring heads and neurons"), loss
    )
    has_free_heads, has_free_neurons = find_resizable_layers(model, uncompressed)
    head_floors = [1 if free else len(layer) for layer, free in zip(heads, has_free_heads, strict=False)]
    heads_to_keep = allocate(heads, options.head_ratio, head_floors)
    floors = [
        max(NEURON_BLOCK, -(-len(layer) // MIN_NEURON_DIVISOR)) if free else len(layer)
        for layer, free in zip(neurons, has_free_neurons, strict=True)
    ]
    neurons_to_keep = allocate(neurons, options.neuron_ratio, floors, NEURON_BLOCK, options.uniform)
    if (
        not options.layers
        and not options.has_masks
        and _count_units(heads_to_keep, neurons_to_keep) == _count_units(heads, neurons)
    ):
        raise ModelError(
            f"nothing can be cut out of the model's {len(get_layers(model))} layers with compress.prune."
            f"head_ratio={options.head_ratio} and neuron_ratio={options.neuron_ratio}: "
            f"each layer keeps at least one head and {NEURON_BLOCK} neurons"
        )
    cut_heads(model, heads_to_keep)
    cut_neurons(model, neurons_to_keep)


def mask_weights(
    model: Any,
    batches: Sequence[Batch],
    options: PruneOptions,
    report: ProgressCallback,
    loss: BatchLossFunction = model_loss,
    uncompressed: Collection[str] = (),
) -> None:
    """Set the least important weights to zero; the arguments are those of ``cut_units``.

    Raises:
        ModelError: The pattern does not fit a weight.
    """
    weights = find_masked_weights(model, options.pattern, uncompressed)
    scores = compute_weight_importance(model, weights, batches, partial(report, batches, "scoring weights"), loss)
    apply_mask(model, scores, options.sparsity, options.pattern)


def _count_units(*scores: Sequence[Sequence[Any]]) -> int:
    return sum(len(layer) for layers in scores for layer in layers)


if __name__ == "__main__":
    child_main(prune)
