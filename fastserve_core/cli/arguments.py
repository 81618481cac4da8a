"""Argument parser and plain tables of the commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from fastserve_core.errors import OptionError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises wrong input as an error of FastServe."""

    def error(self, message: str) -> NoReturn:
        """Report wrong input.

        Raises:
            OptionError: Always, with the message and the usage.
        """
        raise OptionError(f"{message}\n{self.format_usage().strip()}")


def make_parser(command: str, description: str) -> Parser:
    """Make the parser of one command."""
    return Parser(prog=f"fastserve {command}", description=description)


def format_table(rows: Sequence[Sequence[object]]) -> str:
    """Format rows of cells as aligned columns; the first row is the heading."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in texts)
    return "\n".join(lines)
