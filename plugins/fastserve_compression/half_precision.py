"""The process that halves weights, and what keeps some modules in fp32 among 16 bit ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_compression import quantized_embedding, structural_pruning
from fastserve_compression.checkpoint_io import StoredTensors, resolve_name, write_model
from fastserve_compression.mixed_precision import FORMATS, HERE
from fastserve_core.artifacts import read_json, write_json
from fastserve_core.errors import InvalidModel, InvalidOption, did_you_mean
from fastserve_core.models import components_of, register_component
from fastserve_core.processes import child_main
from fastserve_core.tasks import load_task

PART = "kept_in_fp32"


def cast_weights(
    model: str,
    draft: str,
    task: tuple[str, Mapping[str, Any], Sequence[str]],
    dtype: str,
    keep: Sequence[str],
    events: str,
) -> None:
    """Write the model with 16 bit weights into the draft folder."""
    built: Any = load_task(*task).build(Path(model))
    _check_parts(built)
    wanted = getattr(torch, FORMATS[dtype])
    kept = kept_modules(built, keep)
    run(built, wanted, kept)
    if kept:
        register_component(built.config, {"kind": PART, "modules": kept})
    write_model(built, Path(model), Path(draft))
    # transformers writes the format of the first weight, which may be one that was kept
    config = Path(draft, "config.json")
    write_json(config, read_json(config) | {"dtype": FORMATS[dtype]})


def _check_parts(model: Any) -> None:
    known = (structural_pruning.PART, quantized_embedding.PART, PART)
    strangers = [one["kind"] for one in components_of(model.config) if one["kind"] not in known]
    if strangers:
        raise InvalidModel(
            f"the model has parts of the kind '{strangers[0]}', which {HERE[9:]} cannot store in 16 bits"
        )


def kept_modules(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The modules that have a parameter of one of these names; all of a module's own parameters stay together.

    Raises ``InvalidOption`` for a pattern that fits no parameter, or a table: its rows are what 16 bits save most on.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InvalidOption(f"{HERE}.keep: no parameter is called '{pattern}'{did_you_mean(pattern, names)}")
    found = {name.rpartition(".")[0] for name in names if any(fnmatchcase(name, one) for one in patterns)}
    for name in sorted(found):
        if isinstance(model.get_submodule(name), nn.Embedding | quantized_embedding.PQEmbedding):
            raise InvalidOption(f"{HERE}.keep: {name} is a table, and the modules after it compute in its format")
    return sorted(found)


def run(model: nn.Module, wanted: torch.dtype, kept: Sequence[str]) -> None:
    """Bring all parameters but those of the kept modules into the format; raises ``InvalidModel`` when one does not
    fit."""
    for name, one in model.named_parameters():
        stays = name.rpartition(".")[0] in kept
        value = one.data.to(torch.float32 if stays else wanted)
        if not bool(torch.isfinite(value).all()) and bool(torch.isfinite(one.data).all()):
            raise InvalidModel(
                f"{name} has numbers up to {float(one.data.abs().max()):.3g}, more than fp16 holds: take bf16"
            )
        one.data = value


def restore(model: Any, folder: Path, about: Mapping[str, Any]) -> Any:
    """Give a model that was loaded in 16 bits the modules that the folder holds in fp32."""
    stored = StoredTensors(folder, model.base_model_prefix)
    for kept in about["modules"]:
        name = resolve_name(model, kept)
        if name is None:  # another head, or a layer that was cut out since
            continue
        module = model.get_submodule(name)
        for own, parameter in module.named_parameters(recurse=False):
            parameter.data = stored.get(f"{kept}.{own}").float()
        kind: Any = type(module)
        module.__class__ = _kept(kind)
    return model


@cache
def _kept(kind: Any) -> Any:
    """The same kind of module, which takes and gives numbers of any format and computes in that of its own weights.

    That is fp32 when the model answers, and whatever a trainer has changed it to when it is trained.
    """

    def forward(self: nn.Module, given: Tensor, *more: Any) -> Any:
        own = next(self.parameters(recurse=False)).dtype
        return kind.forward(self, given.to(own), *more).to(given.dtype)

    return type(f"Kept{kind.__name__}", (kind,), {"forward": forward})


if __name__ == "__main__":
    child_main(cast_weights)
