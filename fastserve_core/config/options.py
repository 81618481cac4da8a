"""Typed options: a config node merged into its dataclass, with every fault named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from fastserve_core.errors import ErrorCollector, FastServeError, InvalidOption, did_you_mean

T = TypeVar("T")

ROOT = "the config"
"""The path of the whole config, in messages."""


def parse_options(kind: type[T], values: Mapping[str, Any] | DictConfig | None, where: str) -> T:
    """The options dataclass filled and type-checked from a config node.

    Each unknown name and each wrong type is a fault; all are raised together. ``where`` is the node's path.
    """
    node = values if isinstance(values, DictConfig) else OmegaConf.create(dict(values or {}))
    schema = OmegaConf.structured(kind)
    faults = ErrorCollector()
    for name in node:
        with faults.collect():
            _merge_one(schema, node, str(name), where)
    faults.raise_if_any()
    try:
        return cast(T, OmegaConf.to_object(schema))
    except MissingMandatoryValue as error:
        raise InvalidOption(f"{where}.{error.full_key} is missing") from error
    except FastServeError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"{where}: {error}") from error


def _merge_one(schema: Any, node: DictConfig, name: str, where: str) -> None:
    try:
        if name not in schema:
            raise InvalidOption(f"{where} has no option '{name}'{did_you_mean(name, map(str, schema))}")
        schema.merge_with(OmegaConf.masked_copy(node, [name]))
    except ConfigKeyError as error:
        raise InvalidOption(f"{where} has no option '{error.full_key or error.key}'") from error
    except OmegaConfBaseException as error:
        path = error.full_key or name
        value = OmegaConf.select(node, path)
        shown = path if where == ROOT else f"{where}.{path}"
        raise InvalidOption(f"{shown}={value!r}: {_reason(error)}") from error


def _reason(error: OmegaConfBaseException) -> str:
    """OmegaConf's first line; the rest describes its own objects."""
    return str(error.msg or error).splitlines()[0]
