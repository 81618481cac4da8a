"""The maps of the code are true: the picture and the table of the core's rooms; paths, modules and options in pages."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "fastserve_core"
PICTURE = ROOT / "docs" / "pictures" / "rooms.svg"
PAGE, CHINESE_PAGE = (
    (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("how-it-works.md", "how-it-works.zh.md")
)
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SVG = "{http://www.w3.org/2000/svg}"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
OPTIONS = {
    "training.md": ("torch_ddp",),
    "several-machines.md": ("torch_ddp",),
    "tuning.md": ("nevergrad",),
    "compression.md": ("prune", "distill", "vector_quantize", "mixed_precision", "neural_compressor"),
    "serving.md": ("server",),
}
"""The plugins whose options are in the tables of a page."""
PLACE = re.compile(r"`((?:fastserve_core|plugins|conf|tests|docs)/[^`…]*)`")


def contract() -> list[list[str]]:
    """The layers of the core from the top, each with its rooms."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    (layers,) = [each["layers"] for each in contracts if each["name"] == "The core's rooms"]
    return [[room.strip() for room in layer.split("|")] for layer in layers]


def marks(kind: str) -> dict[str, str]:
    """The room of each mark in the picture; ``kind`` is ``run`` or ``request``."""
    found = {}
    for room in ElementTree.parse(PICTURE).getroot().iterfind(f".//{SVG}g[@class='room']"):
        name = room.findtext(f"{SVG}text[@class='name']", "")
        for mark in room.iterfind(f"{SVG}g[@class='{kind}']"):
            found[mark.findtext(f"{SVG}text", "")] = name
    return found


def summary(room: str) -> str:
    """The first paragraph of the docstring of a room, as Markdown."""
    path = CORE / room / "__init__.py" if (CORE / room).is_dir() else CORE / f"{room}.py"
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).replace("``", "`")


def test_the_picture_has_the_layers_of_the_contract() -> None:
    layers = ElementTree.parse(PICTURE).getroot().iterfind(f".//{SVG}g[@class='layer']")
    drawn = [[name.text for name in layer.iterfind(f".//{SVG}text[@class='name']")] for layer in layers]
    assert drawn == contract()


@pytest.mark.parametrize(
    ("kind", "item"), [("run", r"^(\d+)\. `(\w+)` "), ("request", r"^- \*\*([a-z])\.\*\* `(\w+)` ")]
)
def test_the_ways_are_those_of_the_picture(kind: str, item: str) -> None:
    for page in (PAGE, CHINESE_PAGE):
        described = dict(re.findall(item, page, re.MULTILINE))
        assert described
        assert described == marks(kind)


def test_the_table_of_rooms_has_their_docstrings() -> None:
    (table,) = re.findall(r"^\| room \| contents \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    assert list(rows) == [room for layer in contract() for room in layer]
    assert rows == {room: summary(room) for room in rows}


def test_the_chinese_table_describes_each_room_in_chinese() -> None:
    (table,) = re.findall(r"^\| 房间 \| 内容 \|\n\|---\|---\|\n((?:\|.*\n)+)", CHINESE_PAGE, re.MULTILINE)
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    assert list(rows) == [room for layer in contract() for room in layer]
    assert len(set(rows.values())) == len(rows)
    assert all(CHINESE.search(text) for text in rows.values())


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md", "docs/how-it-works.md", "docs/glossary.md"])
def test_the_paths_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = [path for path in PLACE.findall(text) if path.isascii() and "NAME" not in path and "<" not in path]
    assert not [path for path in named if not (ROOT / path).exists()]


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_the_names_of_the_core_that_pages_use_exist() -> None:
    wrong = []
    for page in PAGES:
        for name in re.findall(r"`(fastserve_core(?:\.\w+)+)`", page.read_text(encoding="utf-8")):
            module, _, attribute = name.rpartition(".")
            if not (is_module(name) or (is_module(module) and hasattr(import_module(module), attribute))):
                wrong.append(f"{page.name}: {name}")
    assert not wrong


@pytest.mark.parametrize("page", OPTIONS)
def test_the_options_in_the_tables_of_a_page_exist(page: str) -> None:
    surface = json.loads((ROOT / "tests" / "surface.json").read_text(encoding="utf-8"))["options"]
    known = {option for plugin in OPTIONS[page] for option in surface[plugin]}
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    tables = re.findall(r"^\| option \|.*\n\|[-| :]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    named = [name for table in tables for name in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)]
    options = [option for cell in named for option in re.findall(r"`(\w+)(?![\w…])[^`…]*`", cell)]
    assert options
    assert not [option for option in options if option not in known]
