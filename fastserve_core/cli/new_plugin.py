"""``fastserve new-plugin NAME --stage STAGE``: write an installable plugin package with its contract test."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fastserve_core.artifacts.files import write_text
from fastserve_core.cli.arguments import make_parser
from fastserve_core.entry_points import installed_plugins
from fastserve_core.errors import OptionError, wrap_write_errors
from fastserve_core.plugins.base import BASES
from fastserve_core.plugins.hookspecs import API_VERSION
from fastserve_core.plugins.registry import CONFIG_SECTIONS

TEMPLATES = Path(__file__).parent / "templates"


def main(arguments: Sequence[str]) -> int:
    """Write the package; return the exit code."""
    parser = make_parser("new-plugin", "Write an installable plugin package with its contract test.")
    parser.add_argument("name", metavar="NAME", help="the plugin's name in +plugin=NAME, e.g. drop_layers")
    parser.add_argument("--stage", choices=CONFIG_SECTIONS, required=True)
    parser.add_argument("--into", type=Path, default=Path(), help="parent of the new folder (default: this folder)")
    options = parser.parse_intermixed_args(arguments)
    name = options.name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise OptionError(f"'{options.name}' cannot be a plugin's name: use lower-case letters, digits and underscores")
    if name in installed_plugins():
        raise OptionError(f"a plugin named '{name}' is already installed, from {installed_plugins()[name].source}")
    folder = options.into / f"fastserve-{name.replace('_', '-')}"
    if folder.exists():
        raise OptionError(f"{folder} exists already")
    for path, text in render(name, options.stage).items():
        with wrap_write_errors("the plugin", folder):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / path, text)
    print(f"wrote {folder}. Next:\n  pip install -e {folder}\n  pytest {folder}\n  fastserve +plugin={name} --cfg job")
    return 0


def render(name: str, stage: str) -> dict[str, str]:
    """Return the texts of the package's files by path."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    base = BASES[stage].__name__
    names = {"observe": (), "tune": ("TuneContext",), "serve": ("ServeContext",)}
    context = f"{stage.capitalize()}Context"
    values = {
        "name": name,
        "base": base,
        "context": context,
        "imports": ", ".join(sorted([base, *names.get(stage, (context, "StagedArtifact"))])),
        "stage": stage,
        "package": f"fastserve_{name}",
        "class_name": "".join(word.capitalize() for word in name.split("_")),
        "distribution": f"fastserve-{name.replace('_', '-')}",
        "api_version": API_VERSION,
    }
    package = values["package"]
    targets = {
        "pyproject.toml": "pyproject.toml.j2",
        "README.md": "README.md.j2",
        f"src/{package}/__init__.py": "plugin.py.j2",
        f"src/{package}/conf/plugin/{name}.yaml": "plugin.yaml.j2",
        f"tests/test_{name}.py": "test_plugin.py.j2",
    }
    if stage != "observe":
        targets[f"src/{package}/{stage}.py"] = f"{stage}.py.j2"
    return {path: environment.get_template(template).render(values) for path, template in targets.items()}
