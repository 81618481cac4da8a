"""Installed entry points: plugins, tasks, data sources, engines and other things that packages provide by name."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any, cast

from fastserve_core.errors import MissingPackageError, PluginError, UnknownNameError

GROUP = "fastserve.plugins"
COMMAND_GROUP = "fastserve.commands"
CONFIG_GROUPS = (GROUP, "fastserve.tasks", "fastserve.data", COMMAND_GROUP)
"""Entry points whose packages may have Hydra configs."""


DISTRIBUTION = "fastserve-core"


@dataclass(frozen=True)
class PluginEntry:
    """An installed plugin, described by its packaging metadata.

    Attributes:
        name: The plugin's name.
        entry_point: Its entry point.
    """

    name: str
    entry_point: EntryPoint

    @property
    def package(self) -> str:
        """The top-level package."""
        return self.entry_point.module.partition(".")[0]

    @property
    def distribution(self) -> str:
        """The name of the distribution."""
        return self.entry_point.dist.name if self.entry_point.dist else "unknown"

    @property
    def version(self) -> str:
        """The version of the distribution."""
        return self.entry_point.dist.version if self.entry_point.dist else "0"

    @property
    def source(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}"

    @property
    def config_dir(self) -> Path | None:
        """The plugin's own Hydra configs."""
        return package_config_dir(self.package)

    @property
    def install_hint(self) -> str:
        """The command that installs the plugin's packages."""
        extra = f"{DISTRIBUTION}[{self.name}]" if self.distribution == DISTRIBUTION else self.distribution
        return f"pip install '{extra}'"


@cache
def all_entry_points() -> EntryPoints:
    """Return all entry points of the environment; cached, because reading them opens every distribution."""
    # Python 3.11 returns an older class, whose method select is the same
    return cast(EntryPoints, entry_points())


def installed_plugins() -> dict[str, PluginEntry]:
    """Return all installed plugins by name, without importing them.

    Raises:
        PluginError: Two distributions provide a plugin of the same name.
    """
    plugins: dict[str, PluginEntry] = {}
    for entry_point in all_entry_points().select(group=GROUP):
        entry = PluginEntry(entry_point.name, entry_point)
        other = plugins.get(entry.name)
        if other is not None and other.entry_point.value != entry_point.value:
            raise PluginError(f"two distributions provide a plugin '{entry.name}': {other.source} and {entry.source}")
        plugins[entry.name] = entry
    return plugins


def installed_commands() -> list[str]:
    """Return the names of the commands that packages provide."""
    return sorted(entry.name for entry in all_entry_points().select(group=COMMAND_GROUP))


def package_config_dir(package: str) -> Path | None:
    """Return the Hydra configs of a top-level package, whose find_spec imports nothing."""
    spec = importlib.util.find_spec(package)
    roots = spec.submodule_search_locations if spec else None
    folders = [Path(root, "conf") for root in roots or ()]
    return next((folder for folder in folders if folder.is_dir()), None)


def package_config_dirs() -> list[Path]:
    """Return the Hydra configs of every package that provides a plugin, a task or a data source."""
    found = [entry for group in CONFIG_GROUPS for entry in all_entry_points().select(group=group)]
    packages = dict.fromkeys(entry.module.partition(".")[0] for entry in found)
    return [folder for package in packages if (folder := package_config_dir(package)) is not None]


def load_entry_point(group: str, name: str) -> Any:
    """Load an entry point.

    Args:
        group: The group, such as ``fastserve.tasks``.
        name: The name.

    Raises:
        UnknownNameError: There is no such entry point.
        MissingPackageError: A module that it imports is not installed.
    """
    candidates = {entry_point.name: entry_point for entry_point in all_entry_points().select(group=group)}
    kind = group.partition(".")[2].rstrip("s")
    if name not in candidates:
        raise UnknownNameError(kind, name, candidates)
    try:
        return candidates[name].load()
    except ImportError as error:
        raise MissingPackageError(f"the {kind} '{name}' could not be imported: {error}") from error


def entry_point_version(group: str, name: str) -> str:
    """Return the name and version of the distribution that provides an entry point; empty if none does."""
    for entry_point in all_entry_points().select(group=group, name=name):
        if entry_point.dist is not None:
            return f"{entry_point.dist.name} {entry_point.dist.version}"
    return ""


def blocked_plugins() -> set[str]:
    """Return the names in the environment variable ``FASTSERVE_BLOCK_PLUGINS``."""
    return set(filter(None, os.environ.get("FASTSERVE_BLOCK_PLUGINS", "").split(",")))


def missing_packages(names: Iterable[str]) -> list[str]:
    """Return the modules that are not installed, without importing any.

    Args:
        names: Top-level modules.
    """
    return [name for name in names if importlib.util.find_spec(name) is None]
