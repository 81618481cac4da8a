"""``fastserve`` without arguments: the installed plugins, and three commands to start with."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from fastserve_core.cli import COMMANDS
from fastserve_core.config.groups import group_choices
from fastserve_core.entry_points import (
    COMMAND_GROUP,
    DISTRIBUTION,
    installed_commands,
    installed_plugins,
    load_entry_point,
)

START = """Start with
  fastserve +experiment=movie_reviews
      tune, train and compress MiniLM on human-scored movie reviews: a few minutes, then a report
  fastserve '+plugin=[torch_ddp,neural_compressor]' data.train=reviews.csv
      the same for your own file with the columns text and label
  fastserve serve outputs/<date>/<time>
      serve the best model of a run at http://127.0.0.1:8888
"""


def main(arguments: Sequence[str]) -> int:
    """Print the overview, or with an argument (``--version``) the version alone; return the exit code."""
    try:
        installed_version = version(DISTRIBUTION)
    except PackageNotFoundError:
        installed_version = "(not installed: pip install -e .)"
    if arguments:
        print(f"FastServe {installed_version}")
        return 0
    print(f"FastServe {installed_version}: from a pretrained model and your data to a small, fast, served model\n")
    plugins = installed_plugins()
    print("Installed")
    if not plugins:
        print("  no plugins: this is a bare checkout; 'pip install -e .[all]' installs its plugins")
    for name, entry in sorted(plugins.items()):
        print(f"  {name:<20}{entry.source}")
    for group in ("model", "data", "task", "experiment"):
        print(f"  {group + ':':<20}{', '.join(group_choices(group))}")
    print(f"\n{START}")
    print("More commands")
    for name, text in COMMANDS.items():
        print(f"  fastserve {name:<12}{text}")
    for name in installed_commands():
        print(f"  fastserve {name:<12}{load_entry_point(COMMAND_GROUP, name).help}")
    print("  fastserve --help       list every option with its current value")
    return 0
