"""The core of FastServe: stages, plugins, artifacts, and the run that carries one through the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_core.plugins.hookspecs import API_VERSION, hookimpl

if TYPE_CHECKING:
    from fastserve_core.api import FastServe
    from fastserve_core.serving.client import AsyncClient

__all__ = ["API_VERSION", "AsyncClient", "FastServe", "hookimpl"]


def __getattr__(name: str) -> Any:
    """Load the Python object on first use, so that a plugin's import of ``hookimpl`` stays light."""
    if name == "FastServe":
        from fastserve_core.api import FastServe

        return FastServe
    if name == "AsyncClient":
        from fastserve_core.serving.client import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
