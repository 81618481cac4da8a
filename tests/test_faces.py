"""The public names of the core's rooms: what plugins and other packages import."""

from __future__ import annotations

import ast
import json
from importlib import import_module
from pathlib import Path

import pytest

import fastserve_core

CORE = Path(fastserve_core.__file__).parent
FACES = Path(__file__).parent / "faces.json"
ROOMS = sorted(path.parent.name for path in CORE.glob("*/__init__.pyi"))


def test_the_faces_are_frozen() -> None:
    """A change here is a change for plugins' authors: list it in the changelog, and in ``faces.json``."""
    faces = {room: sorted(import_module(f"fastserve_core.{room}").__all__) for room in ROOMS}
    assert faces == json.loads(FACES.read_text())


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_can_be_imported_and_is_explained(room: str) -> None:
    face = import_module(f"fastserve_core.{room}")
    named = {name: getattr(face, name) for name in face.__all__}
    undocumented = [name for name, value in named.items() if isinstance(value, type) and not value.__doc__]
    assert not undocumented


def test_a_room_has_a_face() -> None:
    rooms = {path.parent.name for path in CORE.glob("*/__init__.py")} - {"cli"}
    assert rooms == set(ROOMS)


def test_a_face_hands_on_the_names_of_its_own_modules() -> None:
    for room in ROOMS:
        for node in ast.parse((CORE / room / "__init__.pyi").read_text()).body:
            assert isinstance(node, ast.ImportFrom)
            assert node.level == 1
            assert (CORE / room / f"{node.module}.py").is_file()
