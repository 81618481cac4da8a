"""Hugging Face model folders: the files that a model needs, their config, and its number of positions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.files import list_tokenizer_files, read_json
from fastserve_core.errors import ModelError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
CONFIGS = (CONFIG, "generation_config.json")
PICKLES = ("pytorch_model.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "pytorch_model-*.bin")
POSITIONS = ("max_position_embeddings", "n_positions")
UNBOUNDED = frozenset({"funnel", "longt5", "mt5", "switch_transformers", "t5", "transfo-xl", "umt5", "xlnet"})
"""By ``model_type``: families of relative positions, whose configs may hold a number that bounds nothing."""
OFFSET = frozenset(
    {
        *("camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm"),
        *("xlm-roberta", "xlm-roberta-xl", "xmod"),
    }
)
"""Families that number positions from the id of the padding plus one, so that their first positions are never used."""


def read_config(folder: Path) -> dict[str, Any]:
    """Read the ``config.json`` of a model folder.

    Raises:
        ModelError: There is none, or it is not a JSON object.
    """
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder} is not a Hugging Face model folder: it has no {CONFIG}")
    return read_object(folder / CONFIG)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a model folder that holds an object.

    Raises:
        ModelError: It cannot be read, or holds something else.
    """
    try:
        value = read_json(path)
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is not valid JSON ({error}): restore the file from the model's source") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}, not an object: restore the file")
    return value


def check_checkpoint(folder: Path, weights: bool = True) -> None:
    """Check that a folder holds a Hugging Face model with safetensors weights.

    Args:
        folder: The folder.
        weights: Whether it needs weights.

    Raises:
        ModelError: It does not exist, has no readable config or lacks weights, or the weights are pickles, which can
            run code when they are read.
    """
    if not folder.is_dir():
        raise ModelError(f"the model folder {folder} does not exist")
    read_config(folder)
    if not weights or list_weight_files(folder):
        return
    pickles = sorted({path.name for pattern in PICKLES for path in folder.glob(pattern)})
    if pickles:
        raise ModelError(
            f"{folder} has its weights in {', '.join(pickles)}, a pickle, which can run code when it is read; "
            "save the model as safetensors (model.save_pretrained does) and use that folder"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    hint = f"; {others[0]} would have to be named {WEIGHTS}" if others else ""
    raise ModelError(f"{folder} has a config.json but no weights: it has no {WEIGHTS} and no {INDEX}{hint}")


def list_weight_files(folder: Path) -> list[str]:
    """Return the names of the files that hold a model's weights; empty if it has none.

    Raises:
        ModelError: The index of the weights cannot be read, or names files that do not exist.
    """
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    shards = read_object(folder / INDEX).get("weight_map")
    if not isinstance(shards, Mapping) or not shards:
        raise ModelError(f"{folder / INDEX} names no files of weights: restore the file")
    names = sorted({str(name) for name in shards.values()})
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(f"{folder} lacks {', '.join(missing)}, which {INDEX} names")
    return names


def list_model_files(folder: Path) -> list[str]:
    """Return the names of the files that a model needs: its configs, weights and tokenizer.

    A checkpoint's folder may hold other files, such as the state of its optimizer.

    Raises:
        ModelError: The index of the weights cannot be read, or names files that do not exist.
    """
    weights = list_weight_files(folder)
    index = [INDEX] if weights and weights != [WEIGHTS] else []
    configs = [name for name in CONFIGS if (folder / name).is_file()]
    return sorted({*configs, *weights, *index, *list_tokenizer_files(folder)})


def max_positions(folder: Path) -> int | None:
    """Return the largest number of tokens that a folder's model has positions for; ``None`` if it has no bound."""
    return count_positions(read_config(folder) if (folder / CONFIG).is_file() else {})


def count_positions(config: Mapping[str, Any]) -> int | None:
    """Return the number of positions by a config, such as that of a part of a composed model."""
    family = config.get("model_type")
    if family in UNBOUNDED or config.get("position_biased_input") is False:
        return None
    bound = next((config[name] for name in POSITIONS if config.get(name)), None)
    if not isinstance(bound, int):
        return None
    pad = config.get("pad_token_id")
    unused = (pad if isinstance(pad, int) else 1) + 1 if family in OFFSET else 0
    return max(0, bound - unused)
