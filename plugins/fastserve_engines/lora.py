"""LoRA adapters (Hu et al. 2021) in PEFT's files, checked against their base and stacked for one pass.

All adapters of a server lie side by side: the low-rank products of a layer are computed for every adapter at once, and
a mask keeps those of the adapter that a token belongs to. So texts of different adapters share a pass, and those of the
base model get exactly its numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastserve_core.artifacts import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE_DIGEST,
    list_weight_files,
    read_object,
    weights_digest,
)
from fastserve_core.errors import ArtifactError, ModelError, PlanError

TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<matrix>[AB])\.weight")
USED = frozenset({"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "peft_type"})
IGNORED = frozenset(
    {
        *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
        *("target_modules", "exclude_modules", "lora_dropout", "fan_in_fan_out", "init_lora_weights", "loftq_config"),
        *("layers_to_transform", "layers_pattern", "megatron_config", "megatron_core", "eva_config", "runtime_config"),
        *("corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying"),
    }
)
"""Settings of PEFT that do not change how a trained adapter is computed; any other one must have no effect."""

ENCODER_DECODER = "is an encoder with a decoder; only decoders, such as GPT-2 and Llama, do"

Matrices = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Of one layer: fp32 (rank, inputs) and (outputs, rank)."""


@dataclass(frozen=True)
class LoraAdapter:
    """One adapter.

    Attributes:
        name: Name that requests select it by.
        base: Name of its base model, by its config.
        digest: ``weights_digest`` of its base; ``None`` if the files do not have it.
        layers: Matrices by the name of the base's module; the second one is scaled.
    """

    name: str
    base: str
    digest: str | None
    layers: Mapping[str, Matrices]


@dataclass(frozen=True)
class AdapterStack:
    """Several adapters side by side.

    Attributes:
        numbers: Row of ``masks`` by the name of the adapter; ``None`` is the base model's.
        masks: fp32 (adapters + 1, rank): 1 for the columns of an adapter.
        layers: Matrices of all adapters by module, where an adapter without the module has zeros.
    """

    numbers: Mapping[str | None, int]
    masks: np.ndarray[Any, Any]
    layers: Mapping[str, Matrices]


def refuse_adapters(base: Path, adapters: Mapping[str, Path] | None, reason: str) -> None:
    """Raise ``PlanError`` if there are adapters for a base that takes none."""
    if adapters:
        raise PlanError(f"the adapters '{', '.join(adapters)}' cannot be served: {base} {reason}")


def load_adapters(folders: Mapping[str, Path], base: Path) -> AdapterStack:
    """Read adapters, check that they belong to a base model, and stack them.

    Args:
        folders: Folders with PEFT's files by name.
        base: Folder of the base model, with its weights.

    Raises:
        ArtifactError: An adapter is damaged, of a kind that is not supported, or of another base.
    """
    adapters = [read_adapter(name, folder) for name, folder in folders.items()]
    shapes, digest = _weight_shapes(base), weights_digest(base)
    for adapter in adapters:
        _check_base(adapter, base, digest, shapes)
    return stack_adapters(adapters)


def read_adapter(name: str, folder: Path) -> LoraAdapter:
    """Read an adapter.

    Args:
        name: Name for requests.
        folder: Folder with PEFT's files.

    Raises:
        ArtifactError: A file is missing or damaged, or the adapter is of a kind that is not supported.
    """
    where = f"the adapter '{name}' ({folder})"
    try:
        config = read_object(folder / ADAPTER_CONFIG)
    except ModelError as error:
        raise ArtifactError(f"{where} cannot be read: {error}") from error
    _check_kind(where, config)
    metadata, tensors = _read_tensors(where, folder / ADAPTER_WEIGHTS)
    layers: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        match = TENSOR.fullmatch(key)
        if match is None:
            raise ArtifactError(f"{where} has the tensor {key}; only lora_A and lora_B of linear layers are supported")
        layers.setdefault(match["module"], {})[match["matrix"]] = tensor
    pairs = {module: _scale(where, module, matrices, config) for module, matrices in layers.items()}
    if not pairs:
        raise ArtifactError(f"{where} has no weights")
    base = str(config.get("base_model_name_or_path") or "an unnamed base")
    return LoraAdapter(name, base, metadata.get(BASE_DIGEST), pairs)


def _check_kind(where: str, config: Mapping[str, Any]) -> None:
    """Raise ``ArtifactError`` for settings that change an adapter's products in a way that is not supported."""
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        raise ArtifactError(f"{where} is of the kind {kind}; only LORA is supported")
    others = {name: value for name, value in config.items() if name not in USED | IGNORED}
    if others.get("bias") == "none":
        del others["bias"]
    if unsupported := sorted(name for name, value in others.items() if value):
        raise ArtifactError(f"{where} sets {', '.join(unsupported)}, which is not supported: serve it merged")


def _read_tensors(where: str, path: Path) -> tuple[Mapping[str, str], dict[str, np.ndarray[Any, Any]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
        return metadata, {name: read_tensor(path, name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{where} cannot be read ({path.name}: {error}): copy or train it again") from error


def read_tensor(path: Path, name: str) -> np.ndarray[Any, Any]:
    """Read one tensor of a safetensors file in fp32."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        if file.get_slice(name).get_dtype() != "BF16":
            return np.asarray(file.get_tensor(name), dtype=np.float32)
    with safe_open(path, framework="pt") as file:  # numpy has no bf16
        tensor: np.ndarray[Any, Any] = file.get_tensor(name).float().numpy()
        return tensor


def _scale(where: str, module: str, matrices: Mapping[str, Any], config: Mapping[str, Any]) -> Matrices:
    """Return both matrices of a layer, the second one multiplied by alpha / rank."""
    first, second = matrices.get("A"), matrices.get("B")
    if first is None or second is None:
        raise ArtifactError(f"{where} has only one of lora_A and lora_B of {module}")
    if first.ndim != 2 or second.ndim != 2 or len(first) != second.shape[1]:
        raise ArtifactError(f"{where}: lora_A {first.shape} and lora_B {second.shape} of {module} do not fit together")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ArtifactError(f"{where}: weights of {module} are not finite numbers")
    rank = _pattern_value(config.get("rank_pattern"), module, config.get("r"))
    if rank != len(first):
        raise ArtifactError(f"{where}: lora_A of {module} has the rank {len(first)}, and {ADAPTER_CONFIG} {rank}")
    alpha = float(_pattern_value(config.get("alpha_pattern"), module, config.get("lora_alpha")))
    return first, second * np.float32(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _pattern_value(patterns: Any, module: str, default: Any) -> Any:
    """Return the value for a module of PEFT's ``rank_pattern`` or ``alpha_pattern``, whose keys end a module's name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _weight_shapes(base: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's weights by the names of their modules."""
    return {name: shape for name, (_, shape) in iterate_weights(base)}


def iterate_weights(base: Path) -> Iterator[tuple[str, tuple[Path, tuple[int, ...]]]]:
    """Yield the modules of a model folder that have a weight, each with the weight's file and shape."""
    from safetensors import safe_open

    for name in list_weight_files(base):
        with safe_open(base / name, framework="np") as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                if key.endswith(".weight"):
                    yield key.removesuffix(".weight"), (base / name, tuple(file.get_slice(key).get_shape()))


def _check_base(adapter: LoraAdapter, base: Path, digest: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ``ArtifactError`` if an adapter is of another base model, by its hash or by the shapes of its layers."""
    pair = f"the adapter '{adapter.name}' belongs to another base model ({adapter.base}) than {base}"
    if adapter.digest is not None and adapter.digest != digest:
        raise ArtifactError(f"{pair}: their weights differ. Serve it on the model that it was trained on")
    for module, (first, second) in adapter.layers.items():
        shape, expected = shapes.get(module), (first.shape[1], len(second))
        if shape is None:
            raise ArtifactError(f"{pair}, which has no layer {module}")
        if shape not in (expected, expected[::-1]):
            raise ArtifactError(f"{pair}: its {module} has {expected[0]} inputs and {expected[1]} outputs, not {shape}")


def stack_adapters(adapters: list[LoraAdapter]) -> AdapterStack:
    """Put adapters side by side.

    Args:
        adapters: Adapters of one base.
    """
    ranks = [max(len(first) for first, _ in adapter.layers.values()) for adapter in adapters]
    ends = np.cumsum([0, *ranks])
    masks = np.zeros((len(adapters) + 1, ends[-1]), np.float32)
    layers: dict[str, Matrices] = {}
    for number, adapter in enumerate(adapters):
        masks[number + 1, ends[number] : ends[number + 1]] = 1
        for module, (first, second) in adapter.layers.items():
            if module not in layers:
                sizes = (ends[-1], first.shape[1]), (len(second), ends[-1])
                layers[module] = np.zeros(sizes[0], np.float32), np.zeros(sizes[1], np.float32)
            columns = slice(ends[number], ends[number] + len(first))
            layers[module][0][columns], layers[module][1][:, columns] = first, second
    numbers: dict[str | None, int] = {None: 0} | {one.name: number for number, one in enumerate(adapters, 1)}
    return AdapterStack(numbers, masks, layers)
