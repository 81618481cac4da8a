"""Argument parser and plain tables of the commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from fastserve_core.config.nodes import DataOptions
from fastserve_core.config.options import parse_options
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


def is_data_option(argument: str) -> bool:
    """Return whether an argument is an option of data, such as ``data.encoding=gb18030``."""
    name, equals, _ = argument.partition("=")
    return bool(equals) and name.startswith("data.")


def parse_data_options(arguments: Sequence[str]) -> DataOptions:
    """Parse arguments such as ``data.encoding=gb18030`` and ``data.columns.text=review``.

    Raises:
        OptionError: An argument is no option of data.
    """
    values: dict[str, Any] = {"columns": {}}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        path = name.split(".")
        if not equals or path[0] != "data" or len(path) not in (2, 3) or (len(path) == 3 and path[1] != "columns"):
            raise OptionError(f"--input takes no texts beside it, only options of data: '{argument}' is none")
        if len(path) == 3:
            values["columns"][path[2]] = value
        else:
            values[path[1]] = value
    return parse_options(DataOptions, values, "data")
