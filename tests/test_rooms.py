"""The rooms of the core stand on each other as `pyproject.toml` says, imports for type checking included."""

from __future__ import annotations

import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent


def floors() -> dict[str, int]:
    """Each room's floor, counted from the top."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [one["layers"] for one in contracts if one["name"] == "The core's rooms"]
    return {room.strip(): floor for floor, layer in enumerate(layers) for room in layer.split("|")}


def test_no_import_leads_upstairs_or_next_door() -> None:
    graph, known = grimp.build_graph("fastserve_core", exclude_type_checking_imports=False), floors()
    wrong = []
    for module in graph.modules:
        room = module.split(".")[1] if "." in module else ""
        if room not in known:
            continue
        for imported in graph.find_modules_directly_imported_by(module):
            other = imported.split(".")[1] if "." in imported else ""
            if other in known and other != room and known[other] <= known[room]:
                wrong.append(f"{module} -> {imported}")
    assert not wrong
    assert {one.split(".")[1] for one in graph.modules if one.count(".") == 1} - {"tests"} == set(known)
