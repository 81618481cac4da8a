"""Import and check of an installed plugin's class."""

from __future__ import annotations

from fastserve_core.entry_points import PluginEntry, missing_packages
from fastserve_core.errors import MissingPackageError, PluginError
from fastserve_core.plugins.base import BASES, Plugin
from fastserve_core.plugins.hookspecs import API_VERSION


def load_plugin(entry: PluginEntry) -> type[Plugin]:
    """Import a plugin's class and check it.

    Args:
        entry: The plugin's entry point.

    Raises:
        PluginError: It cannot be imported, is built for another API version, or is not a plugin class.
        MissingPackageError: A module that it requires is not installed.
    """
    try:
        kind: type[Plugin] = entry.entry_point.load()
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        kind_of_error = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        raise PluginError(
            f"plugin '{entry.name}' ({entry.source}) could not be imported: {kind_of_error}{error}"
        ) from error
    built_for = getattr(kind, "api_version", None)
    if built_for != API_VERSION:
        raise PluginError(
            f"plugin '{entry.name}' ({entry.source}) is built for plugin API {built_for}; "
            f"this FastServe has API {API_VERSION}"
        )
    if not isinstance(kind, type) or not issubclass(kind, Plugin):
        raise PluginError(
            f"plugin '{entry.name}' ({entry.source}) must derive from a class of fastserve_core.plugins: "
            f"{', '.join(base.__name__ for base in BASES.values())}"
        )
    if not hasattr(kind, "Options"):
        raise PluginError(f"plugin '{entry.name}' ({entry.source}) has no Options dataclass")
    missing = missing_packages(kind.requires)
    if missing:
        raise MissingPackageError(f"plugin '{entry.name}' needs {', '.join(missing)}: {entry.install_hint}")
    return kind
