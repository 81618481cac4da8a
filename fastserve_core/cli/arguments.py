"""What the small commands share: a parser that fails our way, plain tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from fastserve_core.errors import InvalidOption


class Parser(argparse.ArgumentParser):
    """argparse, with our message and exit code for wrong input."""

    def error(self, message: str) -> NoReturn:
        raise InvalidOption(f"{message}\n{self.format_usage().strip()}")


def parser(command: str, description: str) -> Parser:
    return Parser(prog=f"fastserve {command}", description=description)


def table(rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they need to be; the first row is the heading."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in texts)
    return "\n".join(lines)
