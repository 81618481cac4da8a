"""Child process of ``mixed_precision``: cast weights to 16 bits and keep some modules in fp32."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_compression import quantized_embedding, structural_pruning
from fastserve_compression.checkpoint_io import StoredTensors, resolve_name, write_model
from fastserve_compression.mixed_precision import FORMATS, OPTION_PATH
from fastserve_core.artifacts import read_json, write_json
from fastserve_core.errors import ModelError, OptionError, did_you_mean
from fastserve_core.models import list_components, register_component
from fastserve_core.processes import child_main
from fastserve_core.tasks import load_task

COMPONENT_KIND = "kept_in_fp32"


def cast_weights(
    model: str,
    draft: str,
    task: tuple[str, Mapping[str, Any], Sequence[str]],
    dtype: str,
    keep: Sequence[str],
    events: str,
) -> None:
    """Write the model with 16-bit weights into the draft folder.

    Args:
        model: Folder of the model.
        draft: Folder to write.
        task: Name, options and labels of the task.
        dtype: ``bf16`` or ``fp16``.
        keep: Patterns of parameters that stay in fp32.
        events: Path of the event stream, unused here.
    """
    loaded_task = load_task(*task)
    built: Any = loaded_task.build(Path(model))
    _check_components(built)
    torch_dtype = getattr(torch, FORMATS[dtype])
    fp32_modules = find_fp32_modules(built, keep, loaded_task.find_uncompressed(built))
    cast_parameters(built, torch_dtype, fp32_modules)
    if fp32_modules:
        register_component(built.config, {"kind": COMPONENT_KIND, "modules": fp32_modules})
    write_model(built, Path(model), Path(draft))
    # transformers writes the dtype of the first weight, which may have stayed in fp32
    config = Path(draft, "config.json")
    write_json(config, read_json(config) | {"dtype": FORMATS[dtype]})


def _check_components(model: Any) -> None:
    known = (structural_pruning.COMPONENT_KIND, quantized_embedding.COMPONENT_KIND, COMPONENT_KIND)
    unknown_kinds = [component["kind"] for component in list_components(model.config) if component["kind"] not in known]
    if unknown_kinds:
        raise ModelError(f"mixed_precision does not support models with components of the kind '{unknown_kinds[0]}'")


def find_fp32_modules(model: nn.Module, patterns: Sequence[str], uncompressed: Collection[str] = ()) -> list[str]:
    """Return the modules with a parameter that matches a pattern or that the task excludes, sorted.

    All parameters of a module share a dtype, because it computes in one.

    Args:
        model: The model.
        patterns: Patterns of parameters.
        uncompressed: Names of modules that stay as they are.

    Raises:
        ModelError: The task excludes an embedding table.
        OptionError: A pattern matches no parameter, or an embedding table, whose rows 16 bits save most on.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise OptionError(f"{OPTION_PATH}.keep: no parameter matches '{pattern}'{did_you_mean(pattern, names)}")
    found = {name.rpartition(".")[0] for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    for name in sorted(found):
        if isinstance(model.get_submodule(name), nn.Embedding | quantized_embedding.PQEmbedding):
            raise OptionError(
                f"{OPTION_PATH}.keep: {name} is an embedding table, and the modules after it compute in its dtype"
            )
    excluded = {module for name in names if (module := name.rpartition(".")[0]) in uncompressed}
    for name in sorted(excluded):
        if isinstance(model.get_submodule(name), nn.Embedding | quantized_embedding.PQEmbedding):
            raise ModelError(f"mixed_precision cannot leave the embedding table {name} in fp32, as the task requires")
    return sorted(found | excluded)


def cast_parameters(model: nn.Module, dtype: torch.dtype, fp32_modules: Sequence[str]) -> None:
    """Cast all parameters but those of the kept modules.

    Args:
        model: Model, changed in place.
        dtype: Target dtype; kept modules are cast to fp32.
        fp32_modules: Paths of the modules to keep in fp32.

    Raises:
        ModelError: A value exceeds the range of the dtype.
    """
    for name, parameter in model.named_parameters():
        is_kept = name.rpartition(".")[0] in fp32_modules
        value = parameter.data.to(torch.float32 if is_kept else dtype)
        if not bool(torch.isfinite(value).all()) and bool(torch.isfinite(parameter.data).all()):
            raise ModelError(
                f"{name} has values up to {float(parameter.data.abs().max()):.3g}, which exceed the range of fp16: "
                "use bf16"
            )
        parameter.data = value


def restore(model: Any, folder: Path, component: Mapping[str, Any]) -> Any:
    """Load the fp32 weights of the kept modules into a model that was loaded in 16 bits.

    Args:
        model: Model that transformers loaded from the folder, changed in place.
        folder: Folder with the safetensors files.
        component: Entry of the config with the paths of the ``modules``.

    Returns:
        The model.
    """
    stored = StoredTensors(folder, model.base_model_prefix)
    for stored_name in component["modules"]:
        name = resolve_name(model, stored_name)
        if name is None:  # the model has another head, or the layer was pruned later
            continue
        module = model.get_submodule(name)
        for parameter_name, parameter in module.named_parameters(recurse=False):
            parameter.data = stored.get(f"{stored_name}.{parameter_name}").float()
        module_class: Any = type(module)
        module.__class__ = _make_casting_class(module_class)
    return model


@cache
def _make_casting_class(base: Any) -> Any:
    """Return a subclass that casts its inputs to the dtype of its weights, and its outputs back.

    The weights are fp32 at inference, and of any dtype that a trainer has cast them to.
    """

    def forward(self: nn.Module, inputs: Tensor, *arguments: Any) -> Any:
        dtype = next(self.parameters(recurse=False)).dtype
        return base.forward(self, inputs.to(dtype), *arguments).to(inputs.dtype)

    return type(f"Casting{base.__name__}", (base,), {"forward": forward})


if __name__ == "__main__":
    child_main(cast_weights)
