"""FastServe's public Python API: ``from fastserve import FastServe``."""

from fastserve_core import FastServe

__all__ = ["FastServe"]
