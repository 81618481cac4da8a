"""The table of docs/families.md: each cell is tried on a tiny classifier of its family."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from families import FAMILIES
from family_cells import EXPORTS, IN_TORCH, Family

COPIES = {"camembert": "roberta", "xlm-roberta": "roberta"}
"""Families whose classes compute what another's do, line by line."""
PAGE = Path(__file__).parent.parent / "docs" / "families.md"


def read_table() -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return the rows of the page by family, and its notes."""
    lines = PAGE.read_text(encoding="utf-8").partition("## The table")[2].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    header, rows = cells[0], cells[2:]
    notes = [match[1] for line in lines if (match := re.fullmatch(r"\d+\. `(.*)`", line))]
    return {row[0].strip("`"): dict(zip(header[1:], row[1:], strict=True)) for row in rows}, notes


def expect(name: str, columns: tuple[str, ...]) -> dict[str, str]:
    """Return the cells of a family's row, with the notes in place of their numbers."""
    rows, notes = read_table()
    cells = {column: rows[name][column] for column in columns}
    return {column: notes[int(cell) - 1] if cell.isdecimal() else cell for column, cell in cells.items()}


def test_every_family_has_a_row() -> None:
    rows, notes = read_table()
    assert tuple(rows) == FAMILIES
    cited = {int(cell) for row in rows.values() for cell in row.values() if cell.isdecimal()}
    assert cited == set(range(1, len(notes) + 1))


@pytest.mark.slow(0.5)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_shrinks_and_answers_as_its_row_says(name: str, tmp_path: Path) -> None:
    family = Family(name, tmp_path)
    assert {column: family.cell(column) for column in IN_TORCH} == expect(name, IN_TORCH)


@pytest.mark.slow(8)
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in COPIES])
def test_a_family_runs_on_other_engines_as_its_row_says(name: str, tmp_path: Path) -> None:
    """An int8 model is OpenVINO's graph with other weights, so that one conversion is enough where both work."""
    family = Family(name, tmp_path, layers=1)
    int8 = family.cell("int8")
    cells = {"OpenVINO": int8 if int8 == "yes" else family.cell("OpenVINO"), "int8": int8, "ONNX": family.cell("ONNX")}
    assert cells == expect(name, EXPORTS)


def test_families_that_copy_another_have_its_row() -> None:
    for name, original in COPIES.items():
        assert expect(name, EXPORTS) == expect(original, EXPORTS)
