"""Typed options: a config node merged into its dataclass; all errors are reported together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from fastserve_core.config.overrides import escape_interpolations, format_argument, quote
from fastserve_core.errors import ErrorCollector, FastServeError, OptionError, did_you_mean

T = TypeVar("T")

ROOT = "the config"
"""The path of the whole config, in messages."""


def parse_options(kind: type[T], values: Mapping[str, Any] | DictConfig | None, path: str) -> T:
    """Fill and type-check a dataclass of options from a config node.

    Args:
        kind: The dataclass.
        values: The node, or values by name.
        path: The node's path, for messages.

    Raises:
        OptionError: A name is unknown, or a value is missing or has the wrong type or range, or is not finite.
        ValidationError: There are several such errors.
    """
    if not isinstance(values, Mapping | None):
        raise OptionError(f"{path} must be a mapping of options, not {values!r}")
    try:
        node = values if isinstance(values, DictConfig) else OmegaConf.create(dict(values or {}))
    except OmegaConfBaseException as error:
        raise OptionError(f"{path}: {_first_line(error)}") from error
    schema = OmegaConf.structured(kind)
    errors = ErrorCollector()
    for name in node:
        with errors.collect():
            _merge_option(schema, node, str(name), path)
    for name, value in cast(dict[str, Any], OmegaConf.to_container(schema)).items():
        with errors.collect():
            _check_finite(value, name if path == ROOT else f"{path}.{name}")
    errors.raise_if_any()
    try:
        return cast(T, OmegaConf.to_object(schema))
    except MissingMandatoryValue as error:
        raise OptionError(f"{path}.{error.full_key} is missing") from error
    except FastServeError:
        raise
    except OmegaConfBaseException as error:
        raise OptionError(f"{path}.{error.full_key}: {_first_line(error)}") from error
    except (TypeError, ValueError) as error:
        raise OptionError(f"{path}: {error}") from error


def resolve_interpolations(cfg: DictConfig) -> DictConfig:
    """Return a config with the values of its references (``${…}``).

    Args:
        cfg: The config.

    Raises:
        OptionError: One cannot be resolved; the message has the form of a text that is not a reference.
        ValidationError: Several cannot.
    """
    _check_interpolations(cfg, "")
    # OmegaConf.resolve would make references of texts that have escaped ones
    values: dict[str, Any] = _escape_texts(OmegaConf.to_container(cfg, resolve=True))
    return OmegaConf.create(values)


def _escape_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _escape_texts(element) for name, element in value.items()}
    if isinstance(value, list):
        return list(map(_escape_texts, value))
    return escape_interpolations(value) if isinstance(value, str) else value


def _check_interpolations(node: DictConfig | ListConfig, path: str) -> None:
    """Check the references in a node; its path ends in a dot.

    Raises:
        OptionError: One cannot be resolved.
        ValidationError: Several cannot.
    """
    errors = ErrorCollector()
    names: Any = range(len(node)) if isinstance(node, ListConfig) else node
    for name in names:
        with errors.collect():
            if OmegaConf.is_interpolation(node, name):
                _check_interpolation(node, name, path)
            elif not OmegaConf.is_missing(node, name) and isinstance(node[name], (DictConfig, ListConfig)):
                _check_interpolations(node[name], f"{path}{name}.")
    errors.raise_if_any()


def _check_interpolation(node: DictConfig | ListConfig, name: Any, path: str) -> None:
    try:
        node[name]
    except OmegaConfBaseException as error:
        values: Any = OmegaConf.to_container(node, resolve=False)
        text = values[name]
        typed = quote(text) if isinstance(node, ListConfig) else format_argument(f"{path}{name}", text)
        message = f"{path}{name}={text}: {_first_line(error)}. For a text that is not a reference, write {typed}"
        raise OptionError(message) from error


def _merge_option(schema: Any, node: DictConfig, name: str, path: str) -> None:
    try:
        if name not in schema:
            raise OptionError(f"{path} has no option '{name}'{did_you_mean(name, map(str, schema))}")
        if OmegaConf.is_missing(node, name):  # a merge would keep the default
            raise OptionError(f"{name if path == ROOT else f'{path}.{name}'} is missing")
        schema.merge_with(OmegaConf.masked_copy(node, [name]))
        _check_elements(schema._get_node(name), name if path == ROOT else f"{path}.{name}")
    except ConfigKeyError as error:
        raise OptionError(f"{path} has no option '{error.full_key or error.key}'") from error
    except OmegaConfBaseException as error:
        option = error.full_key or name
        value = OmegaConf.select(node, option, throw_on_resolution_failure=False)
        option_path = option if path == ROOT else f"{path}.{option}"
        raise OptionError(f"{option_path}={value!r}: {_first_line(error)}") from error


def _check_elements(value: Any, path: str) -> None:
    """Check that a list of texts or numbers holds no lists or mappings, which OmegaConf accepts."""
    if isinstance(value, ListConfig) and not value._is_none() and value._metadata.element_type in (str, int, float):
        nested = [item for item in value if isinstance(item, (DictConfig, ListConfig))]
        if nested:
            raise OptionError(f"{path} must be a list of {value._metadata.element_type.__name__}, not with {nested[0]}")


def _check_finite(value: Any, path: str) -> None:
    """Check that all numbers of an option's value are finite: nan passes most comparisons with bounds."""
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError(f"{path} must be a finite number, not {value}")
    if isinstance(value, (dict, list)):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_finite(item, f"{path}.{name}")


def _first_line(error: OmegaConfBaseException) -> str:
    """Return the first line of OmegaConf's message; the others describe its own objects."""
    return str(error.msg or error).splitlines()[0]
