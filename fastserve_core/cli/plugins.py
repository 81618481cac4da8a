"""``fastserve plugins``: what is installed, from which distribution, and whether it can be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastserve_core.cli.arguments import parser, table
from fastserve_core.config.groups import find_config
from fastserve_core.entry_points import PluginEntry, blocked_by_environment, installed_plugins
from fastserve_core.errors import FastServeError
from fastserve_core.plugins.registry import CONFIG_SECTIONS, load_plugin


def main(arguments: Sequence[str]) -> int:
    options = parser("plugins", "List the installed plugins.")
    options.add_argument("--json", action="store_true", help="print JSON")
    given = options.parse_intermixed_args(arguments)
    found = [describe(entry) for _, entry in sorted(installed_plugins().items())]
    if given.json:
        print(json.dumps(found, indent=1))
        return 0
    rows = [["plugin", "stage", "from", "state"]]
    rows += [[one["name"], one["stage"], f"{one['distribution']} {one['version']}", one["state"]] for one in found]
    print(table(rows))
    return 0


def describe(entry: PluginEntry) -> dict[str, Any]:
    """One plugin as JSON; ``state`` is ``ready``, ``blocked``, or why it cannot be used."""
    stage = stage_of(entry.name)
    state = "ready"
    if entry.name in blocked_by_environment():
        state = "blocked by FASTSERVE_BLOCK_PLUGINS"
    else:
        try:
            load_plugin(entry)
        except FastServeError as error:
            state = str(error)
    return {
        "name": entry.name,
        "stage": stage,
        "distribution": entry.distribution,
        "version": entry.version,
        "module": entry.entry_point.value,
        "state": state,
    }


def stage_of(name: str) -> str:
    """The stage a plugin fills, as its config's first line says; ``?`` when it has none."""
    path = find_config("plugin", name)
    if path is None:
        return "?"
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    stage = first.removeprefix("# @package ").partition(".")[0]
    return stage if stage in CONFIG_SECTIONS else "?"
