"""FastServe's public Python API: ``from fastserve import FastServe``, and ``AsyncClient`` for its servers."""

from fastserve_core import AsyncClient, FastServe

__all__ = ["AsyncClient", "FastServe"]
